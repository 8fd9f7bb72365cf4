"""Centers as data sets of another tool: one center, or several with the round robin's splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.case import Center, DataError
from data.prepare.duplicates import find_duplicates, judge_duplicates
from data.prepare.export_dataset import (
    LAYOUTS,
    Item,
    Written,
    remove_cases,
    write_cases,
    write_description,
)
from data.readers.files import CaseFiles
from data.splits import Split, four_folds, list_all_cases, round_robin
from utils.stages import N_FOLDS


@dataclass(frozen=True)
class Exported:
    """One data set. `folds`: what each fold of splits_final.json tests, empty without one."""

    folder: Path
    cases: tuple[Written, ...]
    folds: tuple[str, ...]
    dropped: tuple[str, ...]
    problems: tuple[str, ...]


def dataset_folder(out: Path, layout: str, number: int, name: str) -> Path:
    """The folder of a data set in `out`, as the tool wants it called.

    Raises `DataError` where another data set has the number, which nnU-Net refuses.
    """
    folder = out / LAYOUTS[layout].folder_name.format(number, name)
    start = folder.name.partition("_")[0]
    taken = [path.name for path in sorted(out.glob(f"{start}_*")) if path.name != folder.name]
    if taken:
        raise DataError(f"{out}: number {number} is taken by {taken[0]}; give another by --id")
    return folder


def export_centers(
    centers: Mapping[str, Center], folder: Path, layout: str, workers: int = 1
) -> Exported:
    """Write the centers as one data set.

    Of several centers, cases are called CENTER_CASE, and fold k of splits_final.json tests the k-th
    center with lesions and trains on all others (`round_robin`; a center without lesions is never
    tested). Of one center, the folds are those inside it (`four_folds`), where it has patients
    enough. Two cases of one scan: a center with `drop_duplicates` loses its own, otherwise the
    later one is left out as a problem, so that no fold trains on what it tests. Raises `DataError`
    where a center cannot be listed, and as `write_cases` and `write_description` do.
    """
    cases = list_all_cases(centers)
    together = len(centers) > 1
    items = [
        Item(f"{name}_{files.case_id}" if together else files.case_id, centers[name], files)
        for name in centers
        for files in cases[name]
    ]
    written, problems = write_cases(items, folder, layout, workers)
    kept, dropped, same = _without_duplicates(written, centers)
    remove_cases([case for case in written if case not in kept], folder, layout)
    splits = _splits(centers, kept)
    names = {(case.item.center.name, case.item.files.case_id): case.item.name for case in kept}
    folds = [
        {
            "train": [names[case] for case in split.train_cases],
            "val": [names[case] for case in split.test_cases],
        }
        for split in splits
    ]
    problems += same
    write_description(kept, folder, layout, folds or None, problems)
    tested = tuple(s.target if s.fold is None else f"fold {s.fold}" for s in splits)
    return Exported(folder, tuple(kept), tested, tuple(dropped), tuple(problems))


def _without_duplicates(
    written: Sequence[Written], centers: Mapping[str, Center]
) -> tuple[list[Written], list[str], list[str]]:
    """The cases that stay, a sentence for each dropped one, and a problem for each other pair."""
    dropping = {name for name, center in centers.items() if center.drop_duplicates}
    pairs = find_duplicates([case.signature for case in written])
    dropped, problems = judge_duplicates(pairs, dropping)
    sentences = [
        f"{c}/{i} is left out: it is the same scan as {o}" for (c, i), o in dropped.items()
    ]
    gone = {f"{center}/{case_id}" for center, case_id in dropped}
    for pair in pairs:
        if pair.first.name not in gone:
            gone.add(pair.second.name)
    return [case for case in written if case.item.source not in gone], sentences, problems


def _splits(centers: Mapping[str, Center], kept: Sequence[Written]) -> list[Split]:
    """The round robin over the centers with a labeled case, or the folds inside the only one."""
    cases: dict[str, list[CaseFiles]] = {}
    for case in kept:
        if case.labeled:
            cases.setdefault(case.item.center.name, []).append(case.item.files)
    there = {name: center for name, center in centers.items() if name in cases}
    if len(centers) > 1:
        targets = sum(center.has_lesions for center in there.values())
        return round_robin(there, "pancreas", cases) if targets > 1 else []
    if not there:
        return []
    (center,) = there.values()
    patients = {files.patient_id for files in cases[center.name]}
    return four_folds(center, cases[center.name]) if len(patients) >= N_FOLDS else []
