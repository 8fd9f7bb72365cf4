"""How much the fine tumor stage reads off its crop: same lesions, same networks, other margins.

    python benchmarks/bench_crops.py --centers centers.toml --target NAME --methods bl ours

Every lesion of the target center is segmented once in a crop around its label, with 0 to 2 times
the margin that the stage uses in inference. A network that sees the lesion finds the same in all
of them; one that has learnt where in its crop a lesion usually ends finds a larger lesion in a
larger crop, and what the coarse stage got wrong comes back as a wrong size. Printed for each method
that is asked for: mean Dice (%) on the prepared grid and the median of predicted over
true volume.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.arguments import parse_arguments
from data.centers import load_centers
from data.dataset import target_mask
from data.prepare.prepared_case import PreparedCase, PrepareSettings, prepare_case
from data.readers import list_cases, load_case
from data.roi import expand_box
from engine.inference import Predictor, load_predictor, predict_box
from engine.results import pick_runs
from reproduce.experiments.cells import choose_targets
from utils.config import Evaluation
from utils.metrics import dsc
from utils.postprocess import keep_components
from utils.scripts import run_script

MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0)  # times the stage's margin in inference


@dataclass(frozen=True)
class Found:
    """What one network found of one lesion in one crop: sides in voxels, Dice in percent."""

    sides: tuple[int, int, int]
    dsc: float
    volume: float  # predicted over true


def find_lesion(predictor: Predictor, prepared: PreparedCase, margin: float) -> Found:
    """One round of the fine stage around the label's box; `margin`: times the stage's own."""
    assert prepared.label is not None
    mask = target_mask(prepared.label, "tumor")
    voxels = [round(margin * side) for side in predictor.stage.margin_voxels]
    box = expand_box(prepared.boxes["tumor"], voxels, mask.shape)
    pred = np.zeros_like(mask)
    prob, _ = predict_box(predictor, prepared.image_hu, box)
    pred[box.slices] = prob > predictor.stage.threshold
    pred = keep_components(pred)
    volume = np.count_nonzero(pred) / np.count_nonzero(mask)
    return Found(box.shape, dsc(pred, mask), float(volume))


def measure(request: Evaluation, methods: Sequence[str]) -> dict[float, dict[str, list[Found]]]:
    """Margin -> method -> what it found, a value for each case with a lesion.

    Raises ValueError for a target that is no center with lesions, and FileNotFoundError where a row
    has no finished run, see `pick_runs`.
    """
    centers = load_centers(request.centers)
    (target,) = choose_targets(centers, [str(request.target)], request.centers)
    center = centers[target]
    models = {
        method: load_predictor(pick_runs(replace(request, method=method), centers)[0][0].checkpoint)
        for method in methods
    }
    spacing = next(iter(models.values())).config.spacing
    found: dict[float, dict[str, list[Found]]] = {m: {v: [] for v in methods} for m in MARGINS}
    for files in tqdm(list_cases(center), unit="case", mininterval=10):
        prepared = prepare_case(load_case(center, files), PrepareSettings(spacing=spacing))
        if "tumor" not in prepared.boxes:
            continue
        for margin, of in found.items():
            for method, model in models.items():
                of[method].append(find_lesion(model, prepared, margin))
    return found


def to_markdown(found: Mapping[float, Mapping[str, Sequence[Found]]]) -> str:
    """A row for each margin: the mean crop, then Dice and volume for each method."""
    methods = list(next(iter(found.values())))
    heads = " | ".join(f"{v}, Dice | {v}, volume" for v in methods)
    lines = [
        f"| margin | mean crop (z, y, x), voxels | {heads} |",
        "| --- | --- |" + " --- |" * (2 * len(methods)),
    ]
    for margin, of in found.items():
        sides = np.mean([case.sides for case in of[methods[0]]], axis=0)
        cells = [f"x {margin:g}", " x ".join(f"{side:.0f}" for side in sides)]
        for cases in of.values():
            cells.append(f"{np.mean([case.dsc for case in cases]):.1f}")
            cells.append(f"{np.median([case.volume for case in cases]):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    request, methods = parse_arguments(__doc__, "tumor_fine")
    run_script(lambda asked: print(to_markdown(measure(asked, methods))), request)


if __name__ == "__main__":
    main()
