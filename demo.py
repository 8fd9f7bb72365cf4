"""The whole paper in miniature: synthetic centers, four stages trained and evaluated, tables.

`python demo.py` runs it all on a CPU or a GPU; called again it goes on where it was. It is
`python reproduce/run.py --what demo` on one target, and an overlay of each of its cases.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from reproduce.draw_overlays import draw_center
from reproduce.experiments.request import Request, parse_request
from reproduce.run import leave, run, run_request
from utils.commands import to_arguments
from utils.config import Evaluation
from utils.device import select_device
from utils.stages import STAGE_NAMES

TARGET = "SYN-C"  # trained are SYN-A and SYN-B; the pancreas also on the lesion-free SYN-N


def parse_demo(argv: Sequence[str] | None = None) -> Request:
    """Command line -> what `reproduce/run.py` is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_output"), help="where all goes")
    add("--quick", action="store_true", help="a few steps only: does it run?")
    add("--seed", type=int, default=2022, help="of the centers and of the trainings")
    add("--devices", nargs="+", help="a process each; default: the GPU, or two on the CPU")
    args = parser.parse_args(argv)
    options = {
        "what": "demo",
        "preset": "quick" if args.quick else "demo",
        "holdout": 0,
        "targets": TARGET,
        "seeds": args.seed,
        "phantom_seed": args.seed,
        "out": args.out,
        "devices": args.devices or default_devices(),
    }
    command = "python demo.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    return replace(parse_request(__doc__, to_arguments(options)), command=command.strip())


def default_devices() -> list[str]:
    """The GPU; without one, two processes, which train small networks faster than two threads."""
    return ["cpu", "cpu"] if select_device("auto").type == "cpu" else ["auto"]


def main(request: Request) -> None:
    """Run the steps, print the tables, draw the cases."""
    report = run(request)
    if report.left or report.failed:
        leave(report)
    drawn = Evaluation(
        STAGE_NAMES[0],
        centers=request.plan.centers,
        target=TARGET,
        checkpoints=request.plan.checkpoints,
        seed=request.seeds[0],
    )
    pictures = draw_center(drawn, request.out / "overlays")
    took = timedelta(seconds=round(time.monotonic() - request.started))
    print(f"{len(pictures)} pictures in {request.out / 'overlays'}; all took {took}")


if __name__ == "__main__":
    run_request(main, parse_demo())
