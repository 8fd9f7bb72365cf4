"""What a change of the scanner alone costs trained models: same cases, same networks, other image.

    python benchmarks/bench_scanner.py --centers centers.toml --target NAME --methods bl ours

Every case of the target center is changed in a way that is known (data/shifts.py) and segmented
again by the tumor stages (F-Mask: pancreas from the label, the lesion's box from the coarse stage).
Printed for each method that is asked for: mean Dice (%) on the prepared grid, and what it loses
against the unchanged images, with a 95 % bootstrap interval over cases. It isolates what a round
robin over centers mixes with how hard each center is. `reproduce/shift_matrix.py` does it for the
whole cascade, every row and three strengths of each change.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.arguments import parse_arguments
from data.case import Case
from data.centers import load_centers
from data.dataset import target_mask
from data.prepare.prepared_case import PreparedCase, PrepareSettings, prepare_case
from data.readers import list_cases, load_case
from data.roi import bounding_box
from data.shifts import UNCHANGED, shift_case
from engine.inference import Predictor, load_predictor, predict_prepared
from engine.results import pick_runs
from reproduce.analysis.stats import bootstrap_mean
from reproduce.experiments.cells import choose_targets
from utils.config import Evaluation
from utils.metrics import dsc
from utils.postprocess import keep_components
from utils.scripts import run_script

# Line of the table -> change and strength, of data/shifts.py.
CHANGES: Mapping[str, tuple[str, float]] = {
    UNCHANGED: (UNCHANGED, 0.0),
    "enhancement x 1.6": ("stronger contrast", 1.6),
    "enhancement x 0.6": ("weaker contrast", 0.6),
    "noise of 30 HU": ("white noise", 30),
    "30 HU lower": ("lower HU", -30),
    "30 HU higher": ("higher HU", 30),
    "softer kernel (3.5 mm)": ("softer kernel", 3.5),
    "sharper kernel": ("sharper kernel", 1.5),
}


def change_case(case: Case, name: str) -> Case:
    """The case with the image of that line of the table."""
    change, strength = CHANGES[name]
    return case if change == UNCHANGED else shift_case(case, change, strength)


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
        for name in CHANGES:
            prepared = prepare_case(change_case(case, name), PrepareSettings(spacing=spacing))
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
