"""One pass of the network: arithmetic, and the memory order of its convolutions.

    python benchmarks/bench_network.py [--device cuda] [--width 8] [--size 40 64 96] [--inference]

Lines: float32 and bf16 as they are; each with all its convolutions as PyTorch chooses them, their
inputs channels-last or contiguous; bf16 with PyTorch's own `F.interpolate` as well in place of ours
(`models/layers.py`). A pass is a training step's forward and backward, or, with `--inference`, one
forward. Every line is run once in each round; a round gives each line's ratio to the line of the
same arithmetic that is ours, and the median of the rounds' ratios is printed, with the seconds'
median. On a CPU seconds are of the process (`--threads 1` for a machine that does other work, too),
on a GPU of the clock. The largest difference of the logits is printed, too.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
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

# Line: its arithmetic, and what stands for ours in it.
LINES = {
    "float32": ("fp32", ""),
    "float32, channels-last": ("fp32", "channels-last"),
    "float32, PyTorch's choice": ("fp32", "contiguous"),
    "bf16": ("bf16", ""),
    "bf16, channels-last": ("bf16", "channels-last"),
    "bf16, contiguous": ("bf16", "contiguous"),
    "bf16, PyTorch's own layers": ("bf16", "plain"),
}
OURS = {"fp32": "float32", "bf16": "bf16"}


def plain_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: Any) -> Tensor:
    """PyTorch's convolution in its default memory order."""
    return F.conv3d(x, weight.to(x.dtype), bias, **geometry)


def channels_last_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: Any
) -> Tensor:
    """Every convolution channels-last, its input and gradient brought there and back."""
    x = layers._ChannelsLast.apply(x)
    return F.conv3d(x, weight.to(x.dtype), bias, **geometry).contiguous()


def plain_upsample(self: layers.Upsample, x: Tensor) -> Tensor:
    """PyTorch's trilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


CONVOLUTIONS = {
    "channels-last": channels_last_conv3d,
    "contiguous": plain_conv3d,
    "plain": plain_conv3d,
}


@contextmanager
def replaced(by: str) -> Iterator[None]:
    """The network with other convolutions; "plain": with PyTorch's interpolation, too."""
    if not by:
        yield
        return
    conv3d = CONVOLUTIONS[by]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(layers, "conv3d", conv3d))
        stack.enter_context(mock.patch.object(backbone, "conv3d", conv3d))
        if by == "plain":
            stack.enter_context(mock.patch.object(layers.Upsample, "forward", plain_upsample))
        yield


def run_pass(
    network: torch.nn.Module, image: Tensor, precision: str, *, training: bool
) -> tuple[float, Tensor]:
    """Seconds of one pass, and the logits."""
    clock = time.process_time
    if image.is_cuda:
        clock = time.perf_counter
        torch.cuda.synchronize()
    started = clock()
    with torch.set_grad_enabled(training), autocast(image.device, precision):
        outputs = network(image)
        loss = outputs.logits.float().square().mean() + outputs.sdm.float().abs().mean()
    if training:
        loss.backward()
    if image.is_cuda:
        torch.cuda.synchronize()
    seconds = clock() - started
    network.zero_grad()
    return seconds, outputs.logits.detach().float()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--device", default="auto")
    add("--width", type=Count, default=8)
    add("--size", type=Count, nargs=3, default=(40, 64, 96))
    add("--views", type=Count, default=2)
    add("--rounds", type=Count, default=5)
    add("--threads", type=Count, help="default: PyTorch's own choice")
    add("--inference", action="store_true", help="a forward pass alone")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = select_device(args.device)
    torch.manual_seed(0)
    network = backbone.ResidualEncoderDecoder(width=args.width).to(device).eval()
    image = torch.rand(args.views, 1, *args.size, device=device)
    seconds: dict[str, list[float]] = {name: [] for name in LINES}
    logits = {}
    for _ in range(args.rounds + 1):  # the first one warms up
        for name, (precision, by) in LINES.items():
            with replaced(by):
                taken, logits[name] = run_pass(
                    network, image, precision, training=not args.inference
                )
            seconds[name].append(taken)
    kind = "forward" if args.inference else "forward and backward"
    print(f"{kind}, {device}, {torch.get_num_threads()} threads, width {args.width}, "
          f"{tuple(image.shape)}, {args.rounds} rounds")  # fmt: skip
    for name, (precision, _) in LINES.items():
        ours, own = seconds[OURS[precision]][1:], seconds[name][1:]
        ratio = median(a / b for a, b in zip(own, ours, strict=True))
        difference = (logits[name] - logits["float32"]).abs().max().item()
        print(
            f"{name:28} {median(own):8.3f} s  {ratio:5.2f} x {OURS[precision]}"
            f"  logits differ by {difference:.2g}"
        )


if __name__ == "__main__":
    main()
