"""How much the fine tumor stage reads off its crop: same lesions, same networks, other margins.

    python benchmarks/bench_crops.py --centers centers.toml --target NAME --variants BL Ours

Every lesion of the target center is segmented once in a crop around its label, with 0 to 2 times
the margin that the stage uses in inference. A network that sees the lesion finds the same in all
of them; one that has learnt where in its crop a lesion usually ends finds a larger lesion in a
larger crop, and what the coarse stage got wrong comes back as a wrong size. Printed for each row
of Table V that is asked for: mean Dice (%) on the prepared grid and the median of predicted over
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

from benchmarks.arguments import parse_arguments
from data.centers import load_centers
from data.dataset import target_mask
from data.prepare.prepared_case import PreparedCase, PrepareSettings, prepare_case
from data.readers import list_cases, load_case
from data.roi import expand_box
from engine.command_line import run_script
from engine.inference import Model, load_model, predict_box
from engine.results import pick_runs
from reproduce.experiments.cells import choose_targets
from utils.config import Evaluation
from utils.metrics import dsc
from utils.postprocess import keep_components

MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0)  # times the stage's margin in inference


@dataclass(frozen=True)
class Found:
    """What one network found of one lesion in one crop: sides in voxels, Dice in percent."""

    sides: tuple[int, int, int]
    dsc: float
    volume: float  # predicted over true


def find_lesion(model: Model, prepared: PreparedCase, margin: float) -> Found:
    """One round of the fine stage around the label's box; `margin`: times the stage's own."""
    assert prepared.label is not None
    mask = target_mask(prepared.label, "tumor")
    voxels = [round(margin * side) for side in model.stage.margin_voxels]
    box = expand_box(prepared.boxes["tumor"], voxels, mask.shape)
    pred = np.zeros_like(mask)
    pred[box.slices] = predict_box(model, prepared.image_hu, box) > model.threshold
    pred = keep_components(pred)
    volume = np.count_nonzero(pred) / np.count_nonzero(mask)
    return Found(box.shape, dsc(pred, mask), float(volume))


def measure(request: Evaluation, variants: Sequence[str]) -> dict[float, dict[str, list[Found]]]:
    """Margin -> row of Table V -> what it found, a value for each case with a lesion.

    Raises ValueError for a target that is no center with lesions, and FileNotFoundError where a row
    has no finished run, see `pick_runs`.
    """
    centers = load_centers(request.centers)
    (target,) = choose_targets(centers, [str(request.target)], request.centers)
    center = centers[target]
    models = {
        variant: load_model(pick_runs(replace(request, variant=variant), centers)[0][0])
        for variant in variants
    }
    spacing = next(iter(models.values())).config.spacing
    found: dict[float, dict[str, list[Found]]] = {m: {v: [] for v in variants} for m in MARGINS}
    for files in tqdm(list_cases(center), unit="case", mininterval=10):
        prepared = prepare_case(load_case(center, files), PrepareSettings(spacing=spacing))
        if "tumor" not in prepared.boxes:
            continue
        for margin, of in found.items():
            for variant, model in models.items():
                of[variant].append(find_lesion(model, prepared, margin))
    return found


def to_markdown(found: Mapping[float, Mapping[str, Sequence[Found]]]) -> str:
    """A row for each margin: the mean crop, then Dice and volume for each variant."""
    variants = list(next(iter(found.values())))
    heads = " | ".join(f"{v}, Dice | {v}, volume" for v in variants)
    lines = [
        f"| margin | mean crop (z, y, x), voxels | {heads} |",
        "| --- | --- |" + " --- |" * (2 * len(variants)),
    ]
    for margin, of in found.items():
        sides = np.mean([case.sides for case in of[variants[0]]], axis=0)
        cells = [f"x {margin:g}", " x ".join(f"{side:.0f}" for side in sides)]
        for cases in of.values():
            cells.append(f"{np.mean([case.dsc for case in cases]):.1f}")
            cells.append(f"{np.median([case.volume for case in cases]):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    request, variants = parse_arguments(__doc__, "tumor_fine")
    run_script(lambda asked: print(to_markdown(measure(asked, variants))), request)


if __name__ == "__main__":
    main()
