"""Parameters and multiply-accumulates of a network, by fvcore's rules (Table VI)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.layers import Upsample

PATCH_SIZES = ((64, 224, 224), (32, 128, 128))  # (z, y, x) of the coarse and fine stage, Table VI


@dataclass(frozen=True)
class Complexity:
    """`parameters`: of one network; Table VI prints coarse and fine together, so twice as many.

    `macs`: multiply-accumulates, summed over the input sizes: Table VI's "GFLOPs".
    """

    parameters: int
    macs: int

    @property
    def gmacs(self) -> str:
        """In 1e9, with the two decimals of Table VI."""
        return f"{self.macs / 1e9:.2f}"


def count_complexity(
    network: nn.Module,
    patch_sizes: Iterable[tuple[int, int, int]] = PATCH_SIZES,
    channels: int = 1,
) -> Complexity:
    """Parameters, and multiply-accumulates by fvcore's rules, of one image of each size (z, y, x).

    `network`: what predicts, on any device ("meta" needs no memory), not the method that holds it:
    what a method trains apart from its network is no part of Table VI. It takes
    (1, `channels`, z, y, x) and returns tensors, a list or a dataclass of them; it is neither run
    nor changed. Trilinear upsampling
    (`models/layers.Upsample`) costs nothing, as interpolation does by fvcore's rules.
    """
    from fvcore.nn import FlopCountAnalysis

    traced = _TensorsOnly(copy.deepcopy(network).to("meta")).eval()
    upsamples = [name for name, module in traced.named_modules() if isinstance(module, Upsample)]
    macs = 0
    for size in patch_sizes:
        image = torch.empty(1, channels, *size, device="meta")
        with _traceable_meta_convolution(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of every check of a shape
            analysis = FlopCountAnalysis(traced, image)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            by_module = analysis.by_module()
        macs += int(by_module[""] - sum(by_module[name] for name in upsamples))
    return Complexity(sum(p.numel() for p in network.parameters()), macs)


class _TensorsOnly(nn.Module):
    """The tracer knows tuples of tensors, no dataclass and no None."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs: Any = self.network(image)
        if is_dataclass(outputs):
            outputs = vars(outputs).values()
        elif isinstance(outputs, Tensor):
            outputs = (outputs,)
        return tuple(value for value in outputs if isinstance(value, Tensor))


@contextmanager
def _traceable_meta_convolution() -> Iterator[None]:
    """Let the tracer see convolutions on the meta device.

    PyTorch's own shape function stops under the tracer, which turns sizes into tensors; and fvcore
    counts `_convolution`, which only the other devices reach.
    """

    def convolution(*args: Any) -> Tensor:
        return torch.ops.aten._convolution(*args, False, False, False, False)

    def shape_only(
        x: Tensor, weight: Tensor, _: Any, stride: Any, padding: Any, dilation: Any, *more: Any
    ) -> Tensor:
        transposed, output_padding, groups = more[:3]
        axes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        if transposed:
            sizes = [
                (int(n) - 1) * s - 2 * p + d * (int(k) - 1) + 1 + extra
                for (n, k, s, p, d), extra in zip(axes, output_padding, strict=True)
            ]
            return x.new_empty([int(x.shape[0]), int(weight.shape[1]) * groups, *sizes])
        sizes = [(int(n) + 2 * p - d * (int(k) - 1) - 1) // s + 1 for n, k, s, p, d in axes]
        return x.new_empty([int(x.shape[0]), int(weight.shape[0]), *sizes])

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("convolution", convolution, "Meta", allow_override=True)
        library.impl("_convolution", shape_only, "Meta", allow_override=True)
        yield
