"""How much memory a training step takes, and when activations are computed again to save some.

Activation checkpointing: what the backward pass needs of a part of the network does not wait for it
but is computed again when its turn comes: one more forward pass of that part, the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from utils.config import CHECKPOINTING
from utils.device import free_memory

TOGETHER = 2  # views that pass as one batch, as the paper trains
GIB = 2**30
BLOCK = 4  # tensors that a residual block keeps: input, normed, first convolution's result, normed
# Tensors that wait for the backward pass: (channels / width, stride, how many). A normed tensor is
# what its convolution keeps too; sums and upsampling keep nothing.
DEEPEST = (
    (8, 8, 4 * BLOCK + 3),  # stages 3 and 4; bottleneck: its input, normed, dropped out
    (8, 8, 9),  # slice head: normed, and repeated 8 times
)
KEPT = (
    (1, 1, BLOCK + 2),  # stage 0; down 1: skip 1, normed
    (2, 2, 2 * BLOCK + 2),  # stage 1, down 2
    (4, 4, 2 * BLOCK + 2),  # stage 2, down 3
    *DEEPEST,
    *((4, 4, 3), (2, 4, 2)),  # decoder 3: input, normed for each branch; behind its convolution
    *((2, 2, 3), (1, 2, 2)),  # decoder 2
    (1, 1, BLOCK + 1),  # decoder 1, and what the heads read
)
# The same where levels are computed again: the skips, what the decoder hands on, and down 3.
KEPT_BETWEEN = ((1, 1, 2), (2, 2, 2), (4, 4, 2), (2, 4, 1), *DEEPEST)
AGAIN = ((1, 1, BLOCK),)  # decoder 1, the largest part that is computed again, while its turn is
# While the finest norm's gradient is made: in 16 bits its input and both gradients in float32 and
# the incoming one as it came; in float32 both gradients.
PASSING_HALF, PASSING_NUMBERS = 14, 2  # bytes, else numbers; for each channel and voxel
LOSS_BYTES = 96  # a voxel of a view: targets, and the maps that the losses keep in float32
RESERVE = 1.2  # what PyTorch's allocator and cuDNN take beside


def kept_numbers(parts: Sequence[tuple[int, int, int]], width: int) -> float:
    """How many numbers `parts` hold for each voxel of the image."""
    return sum(width * channels * count / stride**3 for channels, stride, count in parts)


def waiting_bytes(
    voxels: int, views: int, width: int, number_bytes: int, *, again: bool = False
) -> float:
    """Bytes of activations that wait for the backward pass, of `views` images of `voxels` each.

    `number_bytes`: of an activation, 2 or 4. `again`: levels are computed again.
    """
    parts = KEPT_BETWEEN if again else KEPT
    return voxels * views * number_bytes * kept_numbers(parts, width)


def step_bytes(
    voxels: int, views: int, network: Sized, number_bytes: int, *, batch: int, again: bool = False
) -> float:
    """Most bytes that a step takes beside weights and optimizer, `RESERVE` included.

    `batch`: how many of the views pass together. Other arguments as in `waiting_bytes`.
    """
    width = network.width
    half = number_bytes == 2
    passing = float(width * (PASSING_HALF if half else PASSING_NUMBERS * number_bytes))
    if again:
        passing += number_bytes * kept_numbers(AGAIN, width)
    weights = sum(p.numel() for p in network.parameters())  # standardized ones, and gradients
    activations = waiting_bytes(voxels, views, width, number_bytes, again=again)
    voxel_bytes = passing * batch + LOSS_BYTES * views
    return RESERVE * (activations + voxels * voxel_bytes + weights * (number_bytes + 4))


class Sized(Protocol):
    """A network of the backbone's build."""

    width: int

    def parameters(self) -> Iterator[nn.Parameter]: ...


class Plan(Enum):
    """What is computed again: nothing, each level, each view, or each level within each view."""

    KEEP = (False, False)
    LEVELS = (True, False)
    VIEWS = (False, True)
    BOTH = (True, True)

    @property
    def levels(self) -> bool:
        return self.value[0]

    @property
    def views(self) -> bool:
        return self.value[1]


@dataclass
class Recompute:
    """When activations are computed again: `mode` "auto", "on" or "off".

    "auto": where a step would take more than is free on the GPU. On a CPU, whose free memory is not
    asked for, only the activations of more than two views. "on": with the least memory. "off":
    never. `free_memory`: bytes that a device has left, None where not known. `say`: told, once for
    each plan, why "auto" takes it.
    """

    mode: str = "auto"
    free_memory: Callable[[torch.device], int | None] = free_memory
    say: Callable[[str], None] | None = None
    _fixed: bool | None = field(default=None, init=False)
    _said: set[Plan] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown mode."""
        if self.mode not in CHECKPOINTING:
            raise ValueError(f"--checkpointing {self.mode}: choose from {', '.join(CHECKPOINTING)}")

    def plan(self, network: Sized, image: Tensor, views: int) -> Plan:
        """For `views` images like `image`, (1, 1, z, y, x), of one loss."""
        if self.mode == "off" or not torch.is_grad_enabled():
            return Plan.KEEP
        if self.mode == "on":
            return Plan.BOTH if views > TOGETHER else Plan.LEVELS
        free = self.free_memory(image.device)
        if free is None:
            return Plan.VIEWS if views > TOGETHER else Plan.KEEP
        voxels = image[0, 0].numel()
        half = torch.is_autocast_enabled(image.device.type)
        number_bytes = 2 if half else image.element_size()
        batch = views if views <= TOGETHER else 1

        def needed(views: int, batch: int, again: bool = False) -> float:
            return step_bytes(voxels, views, network, number_bytes, batch=batch, again=again)

        whole = needed(views, batch)
        if whole <= free:
            return Plan.KEEP
        plan, less = Plan.LEVELS, needed(views, 1, again=True)
        if views > TOGETHER:
            plan, less = Plan.VIEWS, needed(1, 1)
            if less > free:
                plan, less = Plan.BOTH, needed(1, 1, again=True)
        if self.say is not None and plan not in self._said:
            self._said.add(plan)
            self.say(
                f"activations are computed again in the backward pass: {views} views of "
                f"{' x '.join(map(str, image.shape[2:]))} voxels would take about "
                f"{whole / GIB:.1f} GiB, {free / GIB:.1f} are free; so it is about "
                f"{less / GIB:.1f} (--checkpointing off keeps them)"
            )
        return plan

    def levels_again(self, network: Sized, image: Tensor) -> bool:
        """Whether the levels of a network are computed again for a batch (b, 1, z, y, x)."""
        if self._fixed is not None:
            return self._fixed
        return self.plan(network, image[:1], min(len(image), TOGETHER)).levels

    @contextmanager
    def fixed(self, levels: bool) -> Iterator[None]:
        """Within it `levels_again` says `levels`, whatever is free by then."""
        before, self._fixed = self._fixed, levels
        try:
            yield
        finally:
            self._fixed = before


def run_level(again: bool, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, (b, c, z, y, x).

    `again`: what its backward pass needs is computed again then, for one sample after the other.
    """
    if not again:
        return function(*inputs)
    samples = zip(*(x.split(1) for x in inputs), strict=True)
    return torch.cat([checkpoint(function, *sample, use_reentrant=False) for sample in samples])


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a forward pass of the modules does more than they say.

    A hook may draw random numbers (MixStyle), or be gone when the backward pass comes: such a part
    cannot be computed again.
    """
    parts = (part for module in modules for part in module.modules())
    return any(part._forward_hooks or part._forward_pre_hooks for part in parts)
