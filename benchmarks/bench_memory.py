"""What a training step keeps in a GPU's memory at the stages' caps.

python benchmarks/bench_memory.py [--plot FILE]
Counted without a GPU: the network runs on tensors without bytes ("meta") with the casts that CUDA's
autocast makes, and every tensor that waits for the backward pass is counted once. Beside it is the
same network with autocast's own GroupNorm (float32), which is what plain PyTorch keeps. Transient
memory and the optimizer come on top. Where there is a GPU, the peak of a real step is measured too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.cuda_autocast import CudaAutocast
from models.backbone import ResidualEncoderDecoder
from models.layers import NormReLU
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


def build(device: str, width: int, plain: bool) -> ResidualEncoderDecoder:
    """The whole network; `plain`: with autocast's own norm."""
    with torch.device(device):
        network = ResidualEncoderDecoder(width=width)
    if plain:
        for module in network.modules():
            if isinstance(module, NormReLU):
                module.__class__ = PlainNormReLU
    return network


def sides_of(voxels: float) -> tuple[int, int, int]:
    """Sides of multiples of 8, in the proportions of Table VI's inputs, of about `voxels`."""
    scale = (voxels / (64 * 224 * 224)) ** (1 / 3)
    z, y, x = (max(8, 8 * round(side * scale / 8)) for side in (64, 224, 224))
    return z, y, x


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
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if half:
            with CudaAutocast():
                network(image)
        else:
            network(image)
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


def measure_peak(sides: Sequence[int], *, plain: bool) -> int:
    """Bytes at the peak of a forward and backward pass in bf16 on the GPU."""
    network = build("cuda", WIDTH, plain)
    image = torch.rand(VIEWS, 1, *sides, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", BF16):
        out = network(image)
        heads = [out.logits, out.sdm, out.slice_logits, out.features]
        loss = sum(head.float().square().mean() for head in heads if head is not None)
    assert isinstance(loss, Tensor)
    loss.backward()
    return torch.cuda.max_memory_allocated()


def table() -> list[str]:
    """A line for each tumor stage at its cap."""
    lines = [f"width {WIDTH}, {VIEWS} views; GiB that wait for the backward pass, counted:"]
    lines.append(f"{'stage':14s}{'input':>16s}{'fp32':>8s}{'bf16, plain':>13s}{'bf16, ours':>12s}")
    for name in ("tumor_coarse", "tumor_fine"):
        cap = STAGES[name].max_voxels
        sides = sides_of(cap)
        sizes = [
            count_saved(sides, plain=True, half=False),
            count_saved(sides, plain=True),
            count_saved(sides, plain=False),
        ]
        shown = "".join(f"{n / GIB:{w}.1f}" for n, w in zip(sizes, (8, 13, 12), strict=True))
        lines.append(f"{name:14s}{'x'.join(map(str, sides)):>16s}{shown}")
        if torch.cuda.is_available():
            peaks = [measure_peak(sides, plain=plain) / GIB for plain in (True, False)]
            device = torch.cuda.get_device_name()
            lines.append(f"  peak on {device}: plain {peaks[0]:.1f}, ours {peaks[1]:.1f}")
    return lines


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
