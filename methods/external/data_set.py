"""nnU-Net's folders: the data set of the source cases, and the split of it into folds.

The data set holds the cases that train and no other: the unseen center, and cases that are held out
to choose a threshold, are in none of its files, so neither planning nor training sees them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.case import Grid
from data.prepare.export_dataset import (
    DATASET,
    image_path,
    nnunet_description,
    remove_leftovers,
    write_arrays,
)
from methods.external.base import Scan, TrainingCase
from utils.files import write_json
from utils.progress import Progress

NUMBER = 1  # of the only data set in its folder
NAME = "sources"
DATA_SET = f"Dataset{NUMBER:03d}_{NAME}"
LAYOUT = "nnunet"
EPOCH = "epoch ended:"  # how our trainers say it, for the progress
CASES = "cases.json"  # nnU-Net's name of a case -> [center, case_id]


def name_cases(cases: Sequence[TrainingCase]) -> dict[str, TrainingCase]:
    """nnU-Net's names: center and number, since a case id can hold what a file name cannot."""
    numbers: dict[str, int] = {}
    named = {}
    for case in sorted(cases, key=lambda case: case.name):
        center = re.sub(r"[^A-Za-z0-9]", "-", case.name[0])
        numbers[center] = numbers.get(center, 0) + 1
        named[f"{center}_{numbers[center]:04d}"] = case
    return named


def write_data_set(home: Path, named: Mapping[str, TrainingCase]) -> None:
    """Write images, labels and dataset.json under `home`/raw; what is there already is kept.

    Raises ValueError for a case without a label.
    """
    folder = home / "raw" / DATA_SET
    remove_leftovers(folder)
    progress = Progress("nnU-Net's data set", len(named))
    for name, case in named.items():
        if not image_path(folder, LAYOUT, name).is_file():
            scan = case.read()
            if scan.label is None:
                raise ValueError(f"{'/'.join(case.name)}: has no label to train on")
            write_arrays(folder, LAYOUT, name, scan.image_hu, scan.label, _grid(scan))
        progress.advance()
    progress.close()
    write_json(home / CASES, {name: list(case.name) for name, case in named.items()})
    write_json(folder / DATASET, nnunet_description(NAME, len(named), has_lesions=True))


def make_folds(named: Mapping[str, TrainingCase], count: int) -> list[dict[str, list[str]]]:
    """`count` folds as splits_final.json has them: each case validates in exactly one.

    All scans of a patient are in one fold; each center's patients are dealt out evenly. Raises
    ValueError with fewer patients than folds, since a fold would validate on nothing.
    """
    patients = dict.fromkeys((case.name[0], case.patient) for case in named.values())
    if len(patients) < count:
        raise ValueError(
            f"--folds {count}: the source centers have {len(patients)} patients; give fewer folds"
        )
    fold_of = {patient: number % count for number, patient in enumerate(patients)}
    place = {name: fold_of[case.name[0], case.patient] for name, case in named.items()}
    return [
        {
            "train": [name for name in named if place[name] != fold],
            "val": [name for name in named if place[name] == fold],
        }
        for fold in range(count)
    ]


def _grid(scan: Scan) -> Grid:
    """A grid of the scan's size and spacing, in the canonical orientation."""
    z, y, x = scan.image_hu.shape
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return Grid((x, y, z), scan.spacing[::-1], (0.0, 0.0, 0.0), identity)
