"""The whole paper in miniature: synthetic centers, four stages trained and evaluated, tables.

`python demo.py` runs it all on a CPU or a GPU; called again it resumes. It is
`python reproduce/run.py --what demo` on one target, an overlay of each of its cases, and, as for a
CT of your own, `python predict.py` on one of them.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.centers import load_centers
from data.readers import list_cases
from reproduce.analysis.center_overlays import draw_center
from reproduce.experiments.presets import PRESETS
from reproduce.experiments.request import DEMO, Request, plan_for
from reproduce.workflow.run_request import exit_with, run
from utils.arguments import Seed
from utils.commands import ROOT
from utils.config import Evaluation
from utils.device import select_device
from utils.scripts import ArgumentParser, run_script
from utils.stages import STAGE_NAMES

TARGET = "SYN-C"  # trained are SYN-A and SYN-B; the pancreas also on the lesion-free SYN-N


def parse_demo(argv: Sequence[str] | None = None) -> Request:
    """Command line -> what `reproduce/run.py` would be asked for."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_output"), help="where all goes")
    add("--quick", action="store_true", help="a few steps only: does it run?")
    add("--seed", type=Seed, default=2022, help="of the centers and of the trainings")
    add("--devices", nargs="+", help="a process each; default: the GPU, or two on the CPU")
    args = parser.parse_args(argv)
    name = "quick" if args.quick else "demo"
    phantoms = PRESETS[name].phantoms
    assert phantoms is not None
    try:
        plan = plan_for(DEMO, args.out, {"preset": name, "holdout": 0.0})
    except ValueError as error:
        parser.error(str(error))
    words = sys.argv[1:] if argv is None else argv
    return Request(
        what=DEMO,
        plan=plan,
        out=args.out,
        phantoms=replace(phantoms, seed=args.seed),
        devices=tuple(args.devices or default_devices()),
        seeds=(args.seed,),
        targets=(TARGET,),
        command=f"python demo.py {shlex.join(words)}".strip(),
    )


def default_devices() -> list[str]:
    """The GPU; without one, two processes, which train small networks faster than two threads."""
    return ["cpu", "cpu"] if select_device("auto").type == "cpu" else ["auto"]


def main(request: Request) -> None:
    """Run the steps, print the tables, draw the cases, predict one as a new CT."""
    outcome = run(request)
    if outcome.left or outcome.failed:
        exit_with(outcome)
    drawn = Evaluation(
        STAGE_NAMES[0],
        centers=request.plan.centers,
        target=TARGET,
        checkpoints=request.plan.checkpoints,
        time=(request.plan.time,),
        seed=request.seeds[0],
    )
    pictures = draw_center(drawn, request.out / "overlays")
    took = timedelta(seconds=round(time.monotonic() - request.started))
    print(f"{len(pictures)} pictures in {request.out / 'overlays'}; all took {took}")
    predict_one(request)


def predict_one(request: Request) -> None:
    """Predict a CT of the unseen center by predict.py, and print the command as the last line."""
    image = list_cases(load_centers(request.plan.centers)[TARGET])[0].image
    words = [str(image), "-o", str(request.out / "predicted")]
    words += ["--checkpoints", str(request.plan.checkpoints)]
    if request.devices[0] != default_devices()[0]:
        words += ["--device", request.devices[0]]
    ended = subprocess.run([sys.executable, str(ROOT / "predict.py"), *words], check=False)
    if ended.returncode:
        raise SystemExit(ended.returncode)
    print(
        f"a CT of your own: {shlex.join(['python', os.path.relpath(ROOT / 'predict.py'), *words])}"
    )


if __name__ == "__main__":
    run_script(main, parse_demo())
