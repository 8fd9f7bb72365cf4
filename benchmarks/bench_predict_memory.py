"""Peak memory of predicting one large CT on a CPU, as predict.py does it: read, segment, write.

    OMP_NUM_THREADS=1 python benchmarks/bench_predict_memory.py [--width 32] [--size 800 512 512]

A painted body with noise is written to disk and predicted by four untrained networks of the
project's size. Each does its whole work; what it finds is taken from the brightness instead, so
that crops are of an organ's size. One input orientation in place of eight: mirroring takes time,
not memory. Lines: the most memory that the process has held so far (VmHWM), GiB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.stand_ins import NAME, Brightness, write_body, write_networks
from data.readers.scans import list_scans
from engine.predict_scans import Work, hash_checkpoints, predict_scans
from engine.scan_output import OutputOptions, Stamp
from engine.stage_predictors import StagePredictors
from methods import METHODS
from utils.arguments import Count
from utils.scripts import ArgumentParser


def main() -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--width", type=Count, default=32)
    add("--size", type=Count, nargs=3, default=(800, 512, 512), help="voxels (z, y, x)")
    add("--idle", action="store_true", help="networks do no work: the memory of all else")
    add("--blind", action="store_true", help="nothing is found: every stage gets the whole volume")
    add("--probabilities", action="store_true", help="write these too")
    args = parser.parse_args()
    METHODS[NAME] = Brightness
    Brightness.idle, Brightness.blind = args.idle, args.blind
    started = time.monotonic()

    def say(text: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{time.monotonic() - started:6.0f} s  {peak:5.2f} GiB  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_body(folder / "body.nii", args.size)
        files = write_networks(folder, args.width)
        say(f"{args.size} voxels and networks of width {args.width} are on disk")
        work = Work(
            out=folder / "out",
            predictors=StagePredictors(files, torch.device("cpu")),
            stamp=Stamp(hash_checkpoints(files)),
            output=OutputOptions(probabilities=args.probabilities),
            say=say,
        )
        scans, _ = list_scans(folder / "body.nii")
        failures = predict_scans(work, scans)
        say(f"all is written; failures: {failures or 'none'}")


if __name__ == "__main__":
    main()
