"""Draw every case of an evaluated center: CT, label, and the contours of each stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data.centers import load_centers
from data.readers import list_cases, load_case
from data.readers.masks import read_mask
from engine.results import Result, pick_runs, result_folder
from reproduce.analysis.overlays import draw_overlay
from utils.config import Evaluation
from utils.stages import STAGE_NAMES


def draw_center(request: Evaluation, out: Path) -> list[Path]:
    """A PNG per case of `request.target` in `out`, from the results that `request` selects.

    Raises FileNotFoundError where no stage is evaluated on it.
    """
    centers = load_centers(request.centers)
    center = centers[str(request.target)]
    results: dict[str, Result] = {}
    for stage in STAGE_NAMES:
        try:
            asked = replace(request, stage=stage)
            ((run, target),) = pick_runs(asked, centers)
        except FileNotFoundError:
            continue
        result = Result(result_folder(run, stage, target, asked), stage, target, None)
        if result.done:
            results[stage] = result
    if not results:
        raise FileNotFoundError(
            f"no stage of {request.checkpoints} is evaluated on {request.target}; evaluate first"
        )
    paths = []
    for files in list_cases(center):
        case = load_case(center, files)
        preds = {
            stage: read_mask(result.mask_path(case.case_id), case.grid)
            for stage, result in results.items()
            if result.mask_path(case.case_id).is_file()
        }
        paths.append(out / f"{case.case_id}.png")
        draw_overlay(paths[-1], case, preds)
    return paths
