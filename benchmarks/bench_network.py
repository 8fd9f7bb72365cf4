"""One pass of the network: arithmetic, and the memory order of its convolutions.

    python benchmarks/bench_network.py [--device cuda] [--width 8] [--size 40 64 96] [--inference]

Lines: float32 and bf16 as they are; each without Winograd's sums (models/winograd.py); each with
all its convolutions as PyTorch chooses them, their inputs channels-last or contiguous; each with
PyTorch's own layers in all (convolution, GroupNorm, ReLU, `F.interpolate`), which is the plain code
of the same network; and nnU-Net's PlainConvUNet of six stages in bf16, where
`dynamic_network_architectures` is installed. A pass is a training step's forward and backward, or,
with `--inference`, one forward. Every line is run once in each round; a round gives each line's
ratio to the line of the same arithmetic that is ours, and the median of the rounds' ratios is
printed, with the seconds' median. On a CPU seconds are of the process (`--threads 1` for a machine
that does other work, too), on a GPU of the clock. Freed memory is kept
(`utils/allocation.py`) for every line, the peers' too.

Beside it the bound: the network's multiply-accumulates, three times as many in a step, at the rate
of a matrix product of 1024 x 1024 (on a GPU 8192) measured in the same arithmetic. The largest
difference of the logits is printed, too. `measure` returns all as plain numbers.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.other_layers import replaced
from models import backbone
from models.complexity import count_complexity
from utils.arguments import Count
from utils.device import DTYPES, autocast, select_device
from utils.scripts import ArgumentParser

# Line: its arithmetic, and what stands for ours in it.
LINES = {
    "float32": ("fp32", ""),
    "float32, without Winograd": ("fp32", "direct"),
    "float32, channels-last": ("fp32", "channels-last"),
    "float32, PyTorch's choice": ("fp32", "contiguous"),
    "float32, PyTorch's own layers": ("fp32", "plain"),
    "bf16": ("bf16", ""),
    "bf16, without Winograd": ("bf16", "direct"),
    "bf16, channels-last": ("bf16", "channels-last"),
    "bf16, contiguous": ("bf16", "contiguous"),
    "bf16, PyTorch's own layers": ("bf16", "plain"),
}
OURS = {"fp32": "float32", "bf16": "bf16"}
NNUNET = "nnU-Net's PlainConvUNet, bf16"
MATRIX = 1024  # side of the product that the rate is measured on


class NNUNet(torch.nn.Module):
    """nnU-Net's network as its planner sizes it for patches of about 32 x 128 x 128."""

    def __init__(self, width: int) -> None:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet

        super().__init__()
        self.network = PlainConvUNet(
            *(1, 6, [min(width * 2**n, 10 * width) for n in range(6)], torch.nn.Conv3d, 3),
            *([1, 2, 2, 2, (1, 2, 2), (1, 2, 2)], 2, 2, 2),
            conv_bias=True,
            norm_op=torch.nn.InstanceNorm3d,
            norm_op_kwargs={"affine": True},
            nonlin=torch.nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )

    def forward(self, image: Tensor) -> backbone.Outputs:
        voxels = self.network(image)
        return backbone.Outputs(voxels[:, :1], voxels[:, 1:], None, None)


def run_pass(
    network: torch.nn.Module, image: Tensor, precision: str, *, training: bool
) -> tuple[float, Tensor]:
    """Seconds of one pass, and the logits."""
    started = now(image.device)
    with torch.set_grad_enabled(training), autocast(image.device, precision):
        outputs = network(image)
        loss = outputs.logits.float().square().mean() + outputs.sdm.float().abs().mean()
    if training:
        loss.backward()
    seconds = now(image.device) - started
    network.zero_grad()
    return seconds, outputs.logits.detach().float()


def now(device: torch.device) -> float:
    """Seconds of the process on a CPU, of the clock on a GPU that has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def matrix_rate(precision: str, device: torch.device) -> float:
    """Multiply-accumulates a second of a square matrix product, the best of ten."""
    side = MATRIX * (8 if device.type == "cuda" else 1)
    # Not of ones: a GPU multiplies those faster than what a network holds.
    matrix = torch.rand(side, side, device=device).to(DTYPES[precision])
    seconds = []
    for _ in range(10):
        started = now(device)
        _ = matrix @ matrix
        seconds.append(now(device) - started)
    return side**3 / min(seconds)


def measure_passes(
    device: torch.device,
    width: int = 8,
    shape: tuple[int, ...] = (2, 40, 64, 96),
    rounds: int = 5,
    *,
    training: bool = True,
) -> dict[str, dict[str, float]]:
    """By line: `seconds`, `ratio` to ours of the same arithmetic, `bound_seconds`, `difference`.

    `shape`: views, z, y, x. `difference`: the logits' largest from float32's; NaN, as is the bound,
    for a network that is not ours.
    """
    torch.manual_seed(0)
    network = backbone.ResidualEncoderDecoder(width=width).to(device).eval()
    image = torch.rand(shape[0], 1, *shape[1:], device=device)
    lines: dict[str, tuple[torch.nn.Module, str, str]]
    lines = {name: (network, *line) for name, line in LINES.items()}
    if importlib.util.find_spec("dynamic_network_architectures"):
        lines[NNUNET] = (NNUNet(width).to(device).eval(), "bf16", "")
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    logits = {}
    for _ in range(rounds + 1):  # the first one warms up
        for name, (model, precision, by) in lines.items():
            with replaced(by):
                taken, logits[name] = run_pass(model, image, precision, training=training)
            seconds[name].append(taken)
    size = (shape[1], shape[2], shape[3])
    macs = count_complexity(network, [size]).macs * shape[0] * (3 if training else 1)
    bounds = {precision: macs / matrix_rate(precision, device) for precision in OURS}
    found = {}
    for name, (model, precision, _) in lines.items():
        ours, own = seconds[OURS[precision]][1:], seconds[name][1:]
        difference = (logits[name] - logits["float32"]).abs().max().item()
        found[name] = {
            "seconds": median(own),
            "ratio": median(a / b for a, b in zip(own, ours, strict=True)),
            "bound_seconds": bounds[precision] if model is network else math.nan,
            "difference": difference if model is network else math.nan,
        }
    return found


def measure(
    size: Sequence[int] = (32, 128, 128),
    views: int = 2,
    width: int = 32,
    rounds: int = 3,
    device: str = "cpu",
) -> dict[str, dict[str, dict[str, float]]]:
    """Steps and forward passes of every line, as `benchmarks/run.py` keeps them.

    `against_ours_ratio`: how many times as fast ours of the same arithmetic is;
    `against_bf16_ratio`: ours in bf16.
    """
    found = {}
    for kind, training in (("step", True), ("forward", False)):
        shape = (views, *size)
        lines = measure_passes(select_device(device), width, shape, rounds, training=training)
        bf16 = lines["bf16"]["seconds"]
        found[kind] = {
            name: {
                "median_s": line["seconds"],
                "against_ours_ratio": line["ratio"],
                "against_bf16_ratio": line["seconds"] / bf16,
                **({"bound_s": line["bound_seconds"]} if line["bound_seconds"] > 0 else {}),
            }
            for name, line in lines.items()
        }
    return found


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
    shape = (args.views, *args.size)
    found = measure_passes(device, args.width, shape, args.rounds, training=not args.inference)
    kind = "forward" if args.inference else "forward and backward"
    print(f"{kind}, {device}, {torch.get_num_threads()} threads, width {args.width}, "
          f"{shape}, {args.rounds} rounds")  # fmt: skip
    for name, line in found.items():
        print(
            f"{name:30} {line['seconds']:8.3f} s  {line['ratio']:5.2f} x ours"
            f"  bound {line['bound_seconds']:.3f} s  logits differ by {line['difference']:.2g}"
        )
    ours, plain = (found[name]["seconds"] for name in ("bf16", "float32, PyTorch's own layers"))
    print(f"bf16 as it is is {plain / ours:.2f} x as fast as the plain float32 code")


if __name__ == "__main__":
    main()
