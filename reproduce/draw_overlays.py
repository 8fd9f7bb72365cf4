"""Draw every case of an evaluated center: CT, label, and the contours of each stage.

    python reproduce/draw_overlays.py --centers centers.toml --target NAME

Reads results only. Stages that are not evaluated have no panel.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.center_overlays import draw_center
from utils.arguments import timestamp
from utils.config import Evaluation
from utils.scripts import ArgumentParser, run_script
from utils.stages import STAGE_NAMES


def main() -> None:
    parser = ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--centers", type=Path, default=Path("centers.toml"))
    parser.add_argument("--target", required=True, help="the center to draw")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--time", type=timestamp, help="timestamp of the runs; none: the newest")
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
