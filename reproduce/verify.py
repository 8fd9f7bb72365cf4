"""Check that what was trained and evaluated still holds: python reproduce/verify.py FOLDER

FOLDER is an experiment (--out of reproduce/run.py) or a folder of run folders (checkpoints). Every
run and every evaluation in it is compared with the digests that it noted when it was finished.
Named are files and masks that were changed or deleted, weights that cannot be read or are not
finite, a run.json of another training, results that were read from others which were evaluated
again since, and scans or labels that are not those which were trained on or measured. Nothing is
changed.
Exit status: 0 where all holds, 1 where something does not, 2 where nothing could be checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.centers import load_centers
from engine.verification import verify_folder
from reproduce.experiments.plan import read_experiment
from utils.commands import default_path
from utils.progress import Progress
from utils.scripts import ArgumentParser, run_script


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=default_path("checkpoints"), metavar="FOLDER")
    add("--centers", type=Path, help="default: the experiment's, else centers.toml")
    add("--cache", type=Path, help="default: the experiment's, else cache")
    args = parser.parse_args(argv)
    try:
        plan = read_experiment(args.folder)
        checkpoints = args.folder if plan is None else plan.checkpoints
        toml = args.centers or (default_path("centers.toml") if plan is None else plan.centers)
        cache = args.cache or (default_path("cache") if plan is None else plan.cache)
        folders = sorted(note.parent for note in checkpoints.glob("*/run.json"))
        if not folders:
            parser.error(f"{checkpoints}: no run folder there; give an experiment or checkpoints")
        centers = load_centers(toml)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    problems = 0
    progress = Progress("verifying", len(folders))
    for folder in folders:
        for problem in verify_folder(folder, checkpoints, centers, cache):
            problems += 1
            print(problem, flush=True)
        progress.advance({})
    progress.close()
    print(f"{len(folders)} run folders in {checkpoints}: {problems or 'no'} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    run_script(lambda given: sys.exit(main(given)), sys.argv[1:])
