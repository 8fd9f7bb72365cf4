"""Write centers as nnU-Net raw data sets or as the Medical Segmentation Decathlon's:

    python data/export.py centers.toml --layout nnunet --out nnUNet_raw --together Pancreas

Each center becomes a data set of its own, numbered from --id on, with the folds inside it; with
--together all of them become one, whose folds are the round robin (fold k tests the k-th center).
Images and labels lie in one orientation (x to the left, y to the back, z to the head), labels are
0 background, 1 pancreas, 2 tumor. An interrupted export resumes. A case that cannot be read is
named and left out. Exit status: 0 when all was written, 1 when a case was left out, 2 for wrong
input.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.case import Center, DataError
from data.centers import choose_centers, load_centers
from data.prepare.export_centers import Exported, dataset_folder, export_centers
from data.prepare.export_dataset import LAYOUTS
from utils.arguments import whole
from utils.commands import default_path
from utils.config import MAX_WORKERS
from utils.scripts import ArgumentParser, run_script
from utils.settings import Range

FIRST_ID = {"nnunet": 501, "msd": 1}
DataSet = whole(Range(least=1, most=999))
Processes = whole(Range(least=1, most=MAX_WORKERS))


def main(given: Sequence[str] | None = None) -> int:
    """Parse, export, say what was done; the exit status."""
    parser = _parser()
    arguments = parser.parse_args(given)
    name = arguments.together
    if name is not None and re.fullmatch("[A-Za-z0-9_-]+", name) is None:
        parser.error(f"--together {name!r}: a name has letters, digits, _ and - only")
    number = FIRST_ID[arguments.layout] if arguments.id is None else arguments.id
    try:
        centers = choose_centers(load_centers(arguments.centers), arguments.center)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    status = 0
    for name, members in _group(centers, arguments.together).items():
        try:
            folder = dataset_folder(arguments.out, arguments.layout, number, name)
            exported = export_centers(members, folder, arguments.layout, arguments.workers)
        except DataError as error:  # the other data sets are written all the same
            print(error, file=sys.stderr)
            status = 2
        else:
            _report(exported)
            status = max(status, 1 if exported.problems else 0)
        number += 1
    return status


def _group(centers: Mapping[str, Center], together: str | None) -> dict[str, dict[str, Center]]:
    """Data set -> its centers."""
    if together is not None:
        return {together: dict(centers)}
    return {name: {name: center} for name, center in centers.items()}


def _report(exported: Exported) -> None:
    labeled = sum(case.labeled for case in exported.cases)
    rest = len(exported.cases) - labeled
    unlabeled = f", {rest} without a label in imagesTs" if rest else ""
    for case in exported.cases:
        if case.notes:
            print(f"warning: {case.item.source}: {'; '.join(case.notes)}")
    for sentence in exported.dropped:
        print(sentence)
    for problem in exported.problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{exported.folder}: {labeled} cases{unlabeled}")
    if exported.folds:
        print(
            f"splits_final.json: {len(exported.folds)} folds, tested: {', '.join(exported.folds)}"
        )
    else:
        print("no splits_final.json: that needs two centers with lesions, or four patients of one")


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("centers", type=Path, nargs="?", default=default_path("centers.toml"))
    add("--layout", choices=tuple(LAYOUTS), default="nnunet", help="(default: nnunet)")
    add("--out", type=Path, required=True, help="folder of data sets, such as nnUNet_raw")
    add("--center", nargs="+", default=(), metavar="NAME", help="only these centers, in this order")
    add("--together", metavar="NAME", help="one data set NAME of all these centers")
    add("--id", type=DataSet, help="number of the first data set (default: 501; of msd 1)")
    add("--workers", type=Processes, default=1, help="processes (default: 1)")
    return parser


if __name__ == "__main__":
    run_script(lambda given: sys.exit(main(given)), None)
