"""What flows through parts of a network during a forward pass, for losses on inner features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """One call of a module: what it was given and what it returned, in the graph of gradients."""

    input: Tensor
    output: Tensor


@contextmanager
def captured(*modules: nn.Module) -> Iterator[dict[nn.Module, Call]]:
    """The last call of each module inside the `with` block, by module.

    A module of one input and one output, both tensors. Nothing stays behind in the network, and
    outside the block nothing is kept: a prediction costs what it costs without this.
    """
    calls: dict[nn.Module, Call] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = Call(inputs[0], output)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
