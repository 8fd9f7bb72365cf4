"""A crop with all eight mirrored inputs: ours, MONAI's sliding window, nnU-Net's own predictor.

    python benchmarks/bench_inference.py [--size 32 96 96] [--patch 32 96 96] [--width 32]

Every line gives the mean probability over the eight mirrored inputs of one image:

- `ours`: `engine/inference.py` in the arithmetic that this device predicts in by itself;
- `ours_bf16`: the same in bf16;
- `plain`: our network of PyTorch's own layers, in the arithmetic of `ours`, mirrored one by one;
- `monai`: the same under MONAI's sliding_window_inference (windows of `--patch`, overlap 0.5,
  gaussian weights), mirrored one by one;
- `nnunet`: nnUNetPredictor with nnU-Net's PlainConvUNet of the same width, its own mirroring and
  tiles of `--patch`, step 0.5.

With a patch as large as the image, as by default, all see the image once. Seconds are the
process's own on a CPU, of the clock on a GPU; `_ratio`: how many times as fast ours is.
Multiply-accumulates of the eight passes and the seconds that they take at least at the machine's
rate are beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.benches import NOT_RUN
from benchmarks.machine import measure_bound
from benchmarks.other_layers import replaced
from benchmarks.timing import interleaved, medians, peak_mib, times_as_fast
from engine.inference import Predictor, predict_mirrored
from methods import build_method, make_config
from models.complexity import count_complexity
from models.layers import keep_standardized
from utils.arguments import Count
from utils.device import autocast, select_device, select_precision
from utils.scripts import ArgumentParser
from utils.stages import STAGES

STAGE = "tumor_coarse"
MIRRORS = [axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n)]
NNUNET = "python -m pip install -r requirements-nnunet.txt"


def build_predictor(width: int, device: torch.device, precision: str) -> Predictor:
    """A stage with an untrained network."""
    torch.manual_seed(0)
    config = make_config(STAGES[STAGE], "bl", width=width)
    method = build_method(config, ["A", "B"]).to(device).eval()
    return Predictor(config, method, device, precision)


class Plain(nn.Module):
    """Our network as PyTorch's own layers compute it, as in `benchmarks/bench_network.py`."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.network = predictor.method.network

    def forward(self, image: Tensor) -> Tensor:
        with replaced("plain"):
            logits: Tensor = self.network(image).logits
        return torch.sigmoid(logits)


def mirrored(predict: Callable[[Tensor], Any], image: Tensor) -> Tensor:
    """The mean over the mirrored inputs, one by one."""
    prob = torch.zeros_like(image)
    precision = select_precision("auto", image.device, training=False)
    with torch.inference_mode(), autocast(image.device, precision):
        for axes in MIRRORS:
            prob += predict(image.flip(axes)).flip(axes) / len(MIRRORS)
    return prob


def monai_window(plain: Plain, patch: Sequence[int]) -> Callable[[Tensor], Any]:
    """MONAI's inferer around our network. Raises ModuleNotFoundError without MONAI."""
    from monai.inferers import sliding_window_inference

    return partial(
        sliding_window_inference,
        roi_size=tuple(patch),
        sw_batch_size=1,
        predictor=plain,
        overlap=0.5,
        mode="gaussian",
    )


def nnunet_network(width: int) -> nn.Module:
    """The network that nnU-Net plans for a patch of this kind. ModuleNotFoundError without it."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(0)
    network: nn.Module = PlainConvUNet(
        input_channels=1,
        n_stages=5,
        features_per_stage=[min(width * 2**n, 10 * width) for n in range(5)],
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=((1, 1, 1), *((2, 2, 2),) * 3, (1, 2, 2)),
        n_conv_per_stage=2,
        num_classes=2,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return network.eval()


def nnunet_predictor(
    network: nn.Module, patch: Sequence[int], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """nnU-Net's own predictor on a preprocessed image. Raises ModuleNotFoundError without it."""
    with contextlib.redirect_stdout(io.StringIO()):  # paths that no training needs, a device's note
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(device=device, allow_tqdm=False)
    labels = SimpleNamespace(num_segmentation_heads=2)
    predictor.manual_initialization(
        network.to(device),
        SimpleNamespace(get_label_manager=lambda dataset: labels),
        SimpleNamespace(patch_size=list(patch)),
        parameters=None,
        dataset_json={},
        trainer_name="",
        inference_allowed_mirroring_axes=(0, 1, 2),
    )

    def predict(image: Tensor) -> Tensor:
        logits: Tensor = predictor.predict_sliding_window_return_logits(image[0])
        return torch.softmax(logits.float(), 0)[1:][None]

    return predict


def measure(
    size: Sequence[int] = (32, 96, 96),
    patch: Sequence[int] = (32, 96, 96),
    width: int = 32,
    rounds: int = 3,
    device: str = "cpu",
) -> dict[str, Any]:
    """Seconds of each line, ratios to ours, work and its bound; `size` and `patch` (z, y, x)."""
    place = select_device(device)
    image = torch.rand(1, 1, *size, device=place)
    precision = select_precision("auto", place, training=False)
    ours = build_predictor(width, place, precision)
    bf16 = build_predictor(width, place, "bf16")
    plain = Plain(build_predictor(width, place, precision))
    for predictor in (ours, bf16):
        keep_standardized(predictor.method)  # as a loaded stage's
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: predict_mirrored(ours, image)[0],
        "ours_bf16": lambda: predict_mirrored(bf16, image)[0],
        "plain": lambda: mirrored(plain, image),
    }
    absent: dict[str, str] = {}
    window = monai_window(plain, patch)
    ways["monai"] = lambda: mirrored(window, image)
    gmac = {"ours": _gmac(ours.method.network, size)}
    try:
        network = nnunet_network(width)
        predict = nnunet_predictor(network, patch, place)
        ways["nnunet"] = lambda: predict(image)
        gmac["nnunet"] = _gmac(network, size)
    except ModuleNotFoundError:
        absent["nnunet"] = NNUNET
    results: dict[str, Tensor] = {name: way() for name, way in ways.items()}  # warms up, too
    seconds = interleaved(ways, rounds, _clock(place), warm_up=0)
    bound = measure_bound(place)
    found: dict[str, Any] = {
        "precision": precision,
        "image_million_voxels": image.numel() / 1e6,
        **medians(seconds),
        **times_as_fast(seconds, "ours"),
        "bf16_against_nnunet_ratio": None,
        "largest_difference_to_plain": (results["ours"] - results["plain"]).abs().max().item(),
    }
    if "nnunet" in seconds:
        found["bf16_against_nnunet_ratio"] = times_as_fast(seconds, "ours_bf16")["nnunet_ratio"]
    for name, each in gmac.items():
        found[f"{name}_gmac"] = each
        found[f"{name}_least_s"] = each / bound[f"{precision}_gmac_per_s"]
    found["ours_of_bound"] = found["ours_least_s"] / found["ours_s"]
    return {**found, "bound": bound, "peak_mib": peak_mib(), NOT_RUN: absent}


def _gmac(network: nn.Module, size: Sequence[int]) -> float:
    """1e9 multiply-accumulates of the eight passes."""
    z, y, x = size
    return len(MIRRORS) * count_complexity(network, [(z, y, x)]).macs / 1e9


def _clock(device: torch.device) -> Callable[[], float]:
    def synchronized() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronized if device.type == "cuda" else time.process_time


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", type=Count, nargs=3, default=(32, 96, 96), help="of the image, voxels (z, y, x)")
    add("--patch", type=Count, nargs=3, default=(32, 96, 96), help="of windows and tiles")
    add("--width", type=Count, default=32)
    add("--rounds", type=Count, default=3)
    add("--device", default="cpu")
    asked = parser.parse_args(argv)
    found = measure(asked.size, asked.patch, asked.width, asked.rounds, asked.device)
    for name, value in found.items():
        print(f"{name:28} {f'{value:.3f}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
