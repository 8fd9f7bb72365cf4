"""Draw every case of an evaluated center: CT, label, and the contours of each stage.

    python reproduce/draw_overlays.py --centers centers.toml --target NAME

Reads results only. Stages that are not evaluated have no panel.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.centers import load_centers
from data.readers import list_cases, load_case
from data.readers.masks import read_mask
from engine.command_line import run_script
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
            asked = Evaluation(**{**vars(request), "stage": stage})
            ((run, target),) = pick_runs(asked, centers)
        except FileNotFoundError:
            continue
        result = Result(
            result_folder(run, stage, target, request.roi_source, request.protocol), stage, None
        )
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


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--centers", type=Path, default=Path("centers.toml"))
    parser.add_argument("--target", required=True, help="the center to draw")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--time", help="timestamp of the runs; none: the newest")
    parser.add_argument("--roi-source", choices=("seg", "mask"), default="seg")
    parser.add_argument("--out", type=Path, default=Path("overlays"), help="folder of the pictures")
    args = parser.parse_args()
    request = Evaluation(
        STAGE_NAMES[0],
        centers=args.centers,
        target=args.target,
        checkpoints=args.checkpoints,
        time=() if args.time is None else (args.time,),
        roi_source=args.roi_source,
    )
    run_script(lambda asked: print(*draw_center(asked, args.out), sep="\n"), request)


if __name__ == "__main__":
    main()
