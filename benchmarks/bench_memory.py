"""What a training step takes of a GPU's memory at the stages' caps.

python benchmarks/bench_memory.py [--plot FILE]
Counted without a GPU: the network runs on tensors without bytes ("meta") with the casts that CUDA's
autocast makes, and every tensor that waits for the backward pass is counted once; "peak" counts all
tensors that are there at once in a forward and a backward pass, and "again" the same where levels
are computed again (--checkpointing on). Beside it is the same network with autocast's own GroupNorm
(float32), which is what plain PyTorch keeps. Losses, the optimizer, and what PyTorch's allocator
and cuDNN take come on top: "planned" is what --checkpointing auto reckons with for a whole step.
Where there is a GPU, the peak of a real pass is measured too.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.cuda_autocast import CudaAutocast
from benchmarks.step_crops import sides_of
from models.backbone import ResidualEncoderDecoder
from models.layers import NormReLU
from models.recompute import Recompute, step_bytes
from utils.scripts import ArgumentParser
from utils.stages import STAGES

GIB = 2**30
VIEWS = 2
WIDTH = 32
BF16 = torch.bfloat16


class PlainNormReLU(NormReLU):
    """GroupNorm and ReLU as autocast runs them."""

    def forward(self, x: Tensor) -> Tensor:
        normed = torch.nn.functional.group_norm(
            x, self.num_groups, self.weight, self.bias, self.eps
        )
        return normed.relu_()


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are there, and the most that were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self.now += size
            self._known[key] = weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.now -= size
        del self._known[key]


def build(device: str, width: int, plain: bool, again: bool = False) -> ResidualEncoderDecoder:
    """The whole network; `plain`: with autocast's own norm; `again`: levels are computed again."""
    with torch.device(device):
        network = ResidualEncoderDecoder(width=width).train()
    network.recompute = Recompute("on" if again else "off")
    if plain:
        for module in network.modules():
            if isinstance(module, NormReLU):
                module.__class__ = PlainNormReLU
    return network


def count_saved(
    sides: Sequence[int], *, width: int = WIDTH, views: int = VIEWS, plain: bool, half: bool = True
) -> int:
    """Bytes that wait for the backward pass, each storage once, parameters not counted.

    `half`: bf16 by CUDA's autocast rules, else float32.
    """
    network = build("meta", width, plain)
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    image = torch.empty(views, 1, *sides, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), casts(half):
        network(image)
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


@contextmanager
def casts(half: bool) -> Iterator[None]:
    """CUDA's autocast, where a forward pass runs and where parts of it run again."""

    def cast() -> AbstractContextManager[Any]:
        return CudaAutocast() if half else nullcontext()

    again = partial(checkpoint, context_fn=lambda: (nullcontext(), cast()))
    with patch("models.recompute.checkpoint", again), cast():
        yield


def count_peak(
    sides: Sequence[int],
    *,
    width: int = WIDTH,
    views: int = VIEWS,
    half: bool = True,
    again: bool = False,
) -> int:
    """Most bytes that tensors take at once in both passes of a batch, parameters not counted."""
    network = build("meta", width, plain=False, again=again)
    image = torch.empty(views, 1, *sides, device="meta")
    with Live() as live:
        with casts(half):
            outputs = network(image)
        heads = [head for head in vars(outputs).values() if head is not None]
        loss = torch.stack([head.float().mean() for head in heads]).sum()
        del outputs, heads
        loss.backward()
    return live.peak


def measure_peak(sides: Sequence[int], *, plain: bool, again: bool = False) -> int:
    """Most bytes that a forward and backward pass of the whole batch takes on the GPU."""
    network = build("cuda", WIDTH, plain, again)
    image = torch.rand(VIEWS, 1, *sides, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", torch.bfloat16):
        outputs = network(image)
        heads = [head for head in vars(outputs).values() if head is not None]
        loss = torch.stack([head.float().mean() for head in heads]).sum()
    loss.backward()
    return torch.cuda.max_memory_allocated()


def measure(stages: Sequence[str] = ("tumor_coarse", "tumor_fine")) -> dict[str, float]:
    """GiB of a step of two views at each stage's cap, width 32, by stage and kind."""
    found: dict[str, float] = {}
    network = build("meta", WIDTH, plain=False)
    for name in stages:
        sides = sides_of(STAGES[name].max_voxels)
        voxels = sides[0] * sides[1] * sides[2]
        planned = partial(step_bytes, voxels, VIEWS, network, 2)
        sizes = {
            "fp32": count_saved(sides, plain=True, half=False),
            "bf16_plain": count_saved(sides, plain=True),
            "bf16": count_saved(sides, plain=False),
            "bf16_peak": count_peak(sides),
            "bf16_again_peak": count_peak(sides, again=True),
            "planned": planned(batch=VIEWS),
            "planned_again": planned(batch=1, again=True),
        }
        if torch.cuda.is_available():
            sizes["gpu_plain_peak"] = measure_peak(sides, plain=True)
            sizes["gpu_peak"] = measure_peak(sides, plain=False)
            sizes["gpu_again_peak"] = measure_peak(sides, plain=False, again=True)
        found |= {f"{name}_{kind}_gib": size / GIB for kind, size in sizes.items()}
    return found


def table() -> list[str]:
    """A line for each size."""
    lines = [f"width {WIDTH}, {VIEWS} views at the caps, GiB"]
    if torch.cuda.is_available():
        lines.append(f"gpu: {torch.cuda.get_device_name()}")
    return lines + [
        f"{name.removesuffix('_gib'):32s}{size:6.1f}" for name, size in measure().items()
    ]


def draw(path: Path) -> None:
    """Memory against voxels of the input, for both norms."""
    import matplotlib.pyplot as plt

    millions = [0.5, 1, 2, 3, 4, 5, 6, 8]
    figure, axes = plt.subplots(figsize=(4.5, 3))
    for plain, label in ((True, "bf16, autocast's norm"), (False, "bf16, ours")):
        sides = [sides_of(m * 1e6) for m in millions]
        voxels = [z * y * x / 1e6 for z, y, x in sides]
        sizes = [count_saved(of, plain=plain) / GIB for of in sides]
        axes.plot(voxels, sizes, marker="o", label=label)
    axes.axhline(24, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("24 GiB", (millions[0], 24), va="bottom")
    axes.set(xlabel="voxels of the input (million), two views", ylabel="kept for backward (GiB)")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", type=Path, help="draw memory against voxels into this file")
    args = parser.parse_args(argv)
    print(*table(), sep="\n")
    if args.plot is not None:
        draw(args.plot)


if __name__ == "__main__":
    main()
