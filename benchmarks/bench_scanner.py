"""What a change of the scanner alone costs trained models: same cases, same networks, other image.

    python benchmarks/bench_scanner.py --centers centers.toml --target NAME --methods bl ours

Every case of the target center is changed in a way that is known (iodine, noise, calibration,
kernel) and segmented again by the tumor stages (F-Mask: pancreas from the label, the lesion's box
from the coarse stage). Printed for each method that is asked for: mean Dice (%) on the
prepared grid, and what it loses against the unchanged images, with a 95 % bootstrap interval over
cases. It isolates what a round robin over centers mixes with how hard each center is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy import ndimage
from tqdm import tqdm

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.arguments import parse_arguments
from data.case import Case
from data.centers import load_centers
from data.dataset import target_mask
from data.prepare.prepared_case import PreparedCase, PrepareSettings, prepare_case
from data.readers import list_cases, load_case
from data.roi import bounding_box
from engine.inference import Predictor, load_predictor, predict_prepared
from engine.results import pick_runs
from reproduce.analysis.stats import bootstrap_mean
from reproduce.experiments.cells import choose_targets
from utils.config import Evaluation
from utils.metrics import dsc
from utils.postprocess import keep_components
from utils.scripts import run_script

SOFT_TISSUE_HU = 40  # what is brighter is taken to be enhanced
LOWEST_HU, HIGHEST_HU = -1024, 3071
UNCHANGED = "unchanged"
# HU (z, y, x) float32, pixel in mm, random numbers -> HU
Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def iodine(factor: float) -> Change:
    """All enhancement times `factor`: 80 kV against 120 kV is about 1.6."""
    return lambda hu, pixel, rng: hu + (factor - 1) * np.maximum(hu - SOFT_TISSUE_HU, 0)


def noise(deviation_hu: float) -> Change:
    """White noise on top of the scanner's own."""
    return lambda hu, pixel, rng: hu + deviation_hu * rng.standard_normal(hu.shape, np.float32)


def offset(shift_hu: float) -> Change:
    """A wrong calibration."""
    return lambda hu, pixel, rng: hu + np.float32(shift_hu)


def kernel(width_mm: float, gain: float) -> Change:
    """`gain` times the difference to a Gaussian of `width_mm` in plane: -1 is the Gaussian."""

    def change(hu: np.ndarray, pixel: float, rng: np.random.Generator) -> np.ndarray:
        soft = ndimage.gaussian_filter(hu, (0, width_mm / pixel, width_mm / pixel))
        return hu + np.float32(gain) * (hu - soft)

    return change


CHANGES: Mapping[str, Change] = {
    UNCHANGED: offset(0),
    "enhancement x 1.6": iodine(1.6),
    "enhancement x 0.6": iodine(0.6),
    "noise of 30 HU": noise(30),
    "30 HU lower": offset(-30),
    "30 HU higher": offset(30),
    "softer kernel (3.5 mm)": kernel(3.5, -1),
    "sharper kernel": kernel(2.8, 1.5),
}


def change_case(case: Case, change: Change, seed: int = 0) -> Case:
    """The case with a changed image; int16 HU as before."""
    rng = np.random.default_rng(seed)
    hu = change(case.image_hu.astype(np.float32), case.spacing[2], rng)
    return replace(
        case, image_hu=np.clip(np.rint(hu), LOWEST_HU, HIGHEST_HU).astype(case.image_hu.dtype)
    )


def fine_dice(coarse: Predictor, fine: Predictor, prepared: PreparedCase) -> float:
    """F-Mask's Dice (%) on the prepared grid."""
    around = prepared.boxes["pancreas"]
    threshold = coarse.stage.threshold
    prob = predict_prepared(coarse, prepared.image_hu, around, threshold).prob
    found = bounding_box(keep_components(prob > threshold))
    threshold = fine.stage.threshold
    around = around if found is None else found
    prob = predict_prepared(fine, prepared.image_hu, around, threshold).prob
    assert prepared.label is not None
    return dsc(keep_components(prob > threshold), target_mask(prepared.label, "tumor"))


def load_models(request: Evaluation, method: str) -> tuple[Predictor, Predictor]:
    """The coarse and the fine tumor model of a row. Raises FileNotFoundError, see `pick_runs`."""
    centers = load_centers(request.centers)
    coarse, fine = (
        load_predictor(
            pick_runs(replace(request, stage=stage, method=method), centers)[0][0].checkpoint
        )
        for stage in ("tumor_coarse", "tumor_fine")
    )
    return coarse, fine


def measure(request: Evaluation, methods: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Method -> change -> Dice (cases,) of the target center's cases with a lesion.

    Raises ValueError for a target that is no center with lesions.
    """
    centers = load_centers(request.centers)
    (target,) = choose_targets(centers, [str(request.target)], request.centers)
    center = centers[target]
    models = {method: load_models(request, method) for method in methods}
    spacing = next(iter(models.values()))[0].config.spacing
    dice: dict[str, dict[str, list[float]]] = {v: {c: [] for c in CHANGES} for v in methods}
    for files in tqdm(list_cases(center), unit="case", mininterval=10):
        case = load_case(center, files)
        for name, change in CHANGES.items():
            prepared = prepare_case(change_case(case, change), PrepareSettings(spacing=spacing))
            if not {"pancreas", "tumor"} <= prepared.boxes.keys():
                continue
            for method, (coarse, fine) in models.items():
                dice[method][name].append(fine_dice(coarse, fine, prepared))
    return {v: {c: np.array(d) for c, d in of.items()} for v, of in dice.items()}


def to_markdown(dice: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """A row for each change; for each method its Dice and the loss against `UNCHANGED`."""
    lines = [
        "| image | " + " | ".join(f"{v} | {v} loses" for v in dice) + " |",
        "| --- |" + " --- |" * (2 * len(dice)),
    ]
    for name in CHANGES:
        cells = []
        for of_changes in dice.values():
            lost = of_changes[UNCHANGED] - of_changes[name]
            interval = bootstrap_mean([lost])
            bounds = "" if interval is None else f" [{interval.low:.1f}, {interval.high:.1f}]"
            loss = "" if name == UNCHANGED else f"{lost.mean():+.1f}{bounds}"
            cells += [f"{of_changes[name].mean():.1f}", loss]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    request, methods = parse_arguments(__doc__, "tumor_coarse")
    run_script(lambda asked: print(to_markdown(measure(asked, methods))), request)


if __name__ == "__main__":
    main()
