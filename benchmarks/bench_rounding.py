"""What Winograd's sums and bf16 change on trained weights: masks, and the gradient of a step.

    python benchmarks/bench_rounding.py last.pt --centers centers.toml --center SYN-F [--cases 10]

Each case with the stage's target is predicted in a crop around its label, in float32 and bf16, each
as plain convolutions and with every 3x3x3 one of stride 1 by Winograd's sums (models/winograd.py),
however small. Printed for each: Dice of the mask at 0.5 with that of plain float32, and the
distance of the gradient of Eq. 2's loss from float32's, relative to its length; means and the worst
case. It is why `models/convolution.py` takes those sums in float32 and, in bf16, in training alone.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.centers import load_centers
from data.dataset import target_mask
from data.intensity import PAD_HU, window_hu
from data.prepare.prepared_case import PrepareSettings, prepare_case
from data.readers import list_cases, load_case
from data.roi import expand_box, network_input
from engine.inference import Predictor, load_predictor, predict_mirrored
from losses.segmentation import segmentation_loss
from models import convolution
from models.winograd import choose_form
from utils.arguments import Count
from utils.device import autocast
from utils.metrics import dsc
from utils.scripts import ArgumentParser, run_script

ARITHMETICS = ("fp32", "bf16")


@contextmanager
def winograd(everywhere: bool) -> Iterator[None]:
    """Every convolution that a form fits by Winograd's sums, or none."""

    def suits(x: Tensor, weight: Tensor, geometry: object) -> bool:
        plain = (*weight.shape[2:], geometry) == (3, 3, 3, ((1, 1, 1),) * 3)
        fits = choose_form(x.shape[2]) is not None and weight.shape[1] > 1
        return everywhere and plain and fits

    with mock.patch.object(convolution, "_suits_winograd", suits):
        yield


def gradient(predictor: Predictor, image: Tensor, mask: Tensor) -> Tensor:
    """Of Eq. 2 with respect to every weight, float32, as one vector."""
    network = predictor.method.network
    network.zero_grad()
    with autocast(predictor.device, predictor.precision):
        logits = network(image).logits
    segmentation_loss([logits], mask).backward()
    grads = (p.grad for p in network.parameters() if p.grad is not None)
    return torch.cat([grad.flatten() for grad in grads]).clone()


def measure(
    checkpoint: Path, centers: Path, center: str, cases: int
) -> dict[tuple[str, bool], tuple[list[float], list[float]]]:
    """By arithmetic and whether by Winograd's sums: Dice (%) and the gradient's error, by case."""
    predictors = {p: load_predictor(checkpoint, "cpu", p) for p in ARITHMETICS}
    stage = predictors["fp32"].stage
    settings = PrepareSettings(spacing=predictors["fp32"].config.spacing)
    found: dict[tuple[str, bool], tuple[list[float], list[float]]]
    found = {way: ([], []) for way in itertools.product(ARITHMETICS, (False, True))}
    place = load_centers(centers)[center]
    for files in tqdm(list_cases(place)[:cases], unit="case", mininterval=10):
        prepared = prepare_case(load_case(place, files), settings)
        if stage.target not in prepared.boxes or prepared.label is None:
            continue
        box = expand_box(prepared.boxes[stage.target], stage.margin_voxels, prepared.shape)
        crop_hu, _ = network_input(prepared.image_hu, box, stage.stride, value=PAD_HU)
        mask, _ = network_input(target_mask(prepared.label, stage.target), box, stage.stride)
        image = window_hu(torch.from_numpy(crop_hu))[None, None]
        wanted = torch.from_numpy(mask.astype(np.float32))[None, None]
        exact: tuple[np.ndarray, Tensor] | None = None
        for (precision, everywhere), (dice, errors) in found.items():
            predictor = predictors[precision]
            with winograd(everywhere):
                prob, _ = predict_mirrored(predictor, image)
                grad = gradient(predictor, image, wanted)
            pred = prob[0, 0].numpy() > 0.5
            exact = exact or (pred, grad)
            dice.append(dsc(pred, exact[0]) if exact[0].any() else math.nan)
            errors.append(float((grad - exact[1]).norm() / exact[1].norm()))
    return found


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path)
    add("--centers", type=Path, default=Path("centers.toml"))
    add("--center", required=True)
    add("--cases", type=Count, default=10)
    asked = parser.parse_args()

    def run(_: object) -> None:
        found = measure(asked.checkpoint, asked.centers, asked.center, asked.cases)
        print("| arithmetic | convolutions | Dice | worst | gradient's error | worst |")
        print("| --- | --- | --- | --- | --- | --- |")
        for (precision, everywhere), (dice, errors) in found.items():
            kind = "Winograd's sums" if everywhere else "plain"
            low = f"{np.nanmean(dice):.3f} | {np.nanmin(dice):.3f}"
            print(f"| {precision} | {kind} | {low} | {np.mean(errors):.2g} | {max(errors):.2g} |")

    run_script(run, asked)


if __name__ == "__main__":
    main()
