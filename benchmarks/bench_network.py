"""One training step of the network: arithmetic, and the memory order of its convolutions.

    python benchmarks/bench_network.py [--device cuda] [--width 8] [--size 40 64 96]

Lines: float32 and bf16; bf16 with PyTorch's own `F.conv3d` and `F.interpolate` in place of ours
(`models/layers.py`). Each is timed in turn, several rounds, and the fastest round counts; only the
ratios of one run mean anything. The largest difference of the logits is printed, too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from models import backbone, layers
from utils.arguments import Count
from utils.device import autocast, select_device
from utils.scripts import ArgumentParser

ROUNDS = 5


def plain_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: Any) -> Tensor:
    """PyTorch's convolution in its default memory order."""
    return F.conv3d(x, weight.to(x.dtype), bias, **geometry)


def plain_upsample(self: layers.Upsample, x: Tensor) -> Tensor:
    """PyTorch's trilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


@contextmanager
def plain_layers() -> Iterator[None]:
    """The network on PyTorch's own operations."""
    with (
        mock.patch.object(layers, "conv3d", plain_conv3d),
        mock.patch.object(backbone, "conv3d", plain_conv3d),
        mock.patch.object(layers.Upsample, "forward", plain_upsample),
    ):
        yield


def step(network: torch.nn.Module, image: Tensor, precision: str) -> tuple[float, Tensor]:
    """Seconds of one forward and backward pass, and the logits."""
    if image.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    with autocast(image.device, precision):
        outputs = network(image)
        loss = outputs.logits.float().square().mean() + outputs.sdm.float().abs().mean()
    loss.backward()
    if image.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    network.zero_grad()
    return seconds, outputs.logits.detach().float()


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--width", type=Count, default=8)
    parser.add_argument("--size", type=Count, nargs=3, default=(40, 64, 96))
    parser.add_argument("--views", type=Count, default=2)
    args = parser.parse_args()
    device = select_device(args.device)
    torch.manual_seed(0)
    network = backbone.ResidualEncoderDecoder(width=args.width).to(device).eval()
    image = torch.rand(args.views, 1, *args.size, device=device)
    seconds: dict[str, list[float]] = {"float32": [], "bf16": [], "bf16, PyTorch's own layers": []}
    logits = {}
    for _ in range(ROUNDS):
        for name, times in seconds.items():
            precision = "fp32" if name == "float32" else "bf16"
            if "own" in name:
                with plain_layers():
                    taken, logits[name] = step(network, image, precision)
            else:
                taken, logits[name] = step(network, image, precision)
            times.append(taken)
    print(f"{device}, {torch.get_num_threads()} threads, width {args.width}, {tuple(image.shape)}")
    best = min(seconds["bf16"])
    for name, times in seconds.items():
        difference = (logits[name] - logits["float32"]).abs().max().item()
        print(
            f"{name:28} {min(times):8.3f} s  {min(times) / best:5.2f} x bf16"
            f"  logits differ by {difference:.2g}"
        )


if __name__ == "__main__":
    main()
