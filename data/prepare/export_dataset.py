"""Cases in the layout of another tool: nnU-Net raw, or the Medical Segmentation Decathlon's.

Every image and label is written in the canonical orientation (x to the patient's left, y to the
back, z to the head), since nnU-Net does not turn what it reads and would train on turned patients;
only axes are permuted and mirrored, no voxel is resampled. Image and label have the same header.
Values are Hounsfield units (int16) and 0 background, 1 pancreas, 2 tumor (uint8), whatever the
data set's own label values are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.case import LABEL_PANCREAS, LABEL_TUMOR, Center, DataError, Grid
from data.prepare.cache import content_key, reading_rule
from data.prepare.one_case import case_error
from data.prepare.parallel import run_jobs
from data.prepare.signature import Signature, from_text, sign_image, to_text
from data.readers import load_case
from data.readers.files import CaseFiles, read_json, volume_stem
from data.readers.masks import write_volume
from data.readers.volume import canonical_grid
from utils.files import write_json

VERSION = 1  # of what is written for a case: another one is written again
SUFFIX = ".nii.gz"
RECORDS = ".export"  # in the data set's folder: what was written from which bytes
FOLDERS = IMAGES, LABELS, UNLABELED = "imagesTr", "labelsTr", "imagesTs"
DATASET, SPLITS = "dataset.json", "splits_final.json"


@dataclass(frozen=True)
class Item:
    """One case to be exported as `name`, a file name without a suffix."""

    name: str
    center: Center
    files: CaseFiles

    @property
    def source(self) -> str:
        """Center and case, for messages."""
        return f"{self.center.name}/{self.files.case_id}"


@dataclass(frozen=True)
class Written:
    """A case that is complete on the disk. `notes`: the reader's warnings."""

    item: Item
    labeled: bool
    signature: Signature
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """How a tool names its images, and what it wants to know of a data set."""

    image_name: str
    folder_name: str
    describe: Callable[[str, Sequence[Written]], dict[str, Any]]


def _has_lesions(cases: Sequence[Written]) -> bool:
    return any(case.item.center.has_lesions for case in cases)


def nnunet_description(name: str, labeled: int, has_lesions: bool) -> dict[str, Any]:
    """dataset.json of nnU-Net 2 for `labeled` cases; a channel CT chooses CT's normalization."""
    labels = {"background": 0, "pancreas": LABEL_PANCREAS}
    return {
        "channel_names": {"0": "CT"},
        "labels": labels | ({"tumor": LABEL_TUMOR} if has_lesions else {}),
        "numTraining": labeled,
        "file_ending": SUFFIX,
        "name": name,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }


def _describe_nnunet(name: str, cases: Sequence[Written]) -> dict[str, Any]:
    return nnunet_description(name, sum(case.labeled for case in cases), _has_lesions(cases))


def _describe_msd(name: str, cases: Sequence[Written]) -> dict[str, Any]:
    labels = {"0": "background", "1": "pancreas"}
    names = sorted(case.item.name for case in cases if case.labeled)
    unlabeled = sorted(case.item.name for case in cases if not case.labeled)
    return {
        "name": name,
        "description": "Pancreas and pancreatic tumor",
        "reference": "",
        "licence": "that of the data set it was made from",
        "release": "",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": labels | ({"2": "cancer"} if _has_lesions(cases) else {}),
        "numTraining": len(names),
        "numTest": len(unlabeled),
        "training": [
            {"image": f"./{IMAGES}/{n}{SUFFIX}", "label": f"./{LABELS}/{n}{SUFFIX}"} for n in names
        ],
        "test": [f"./{UNLABELED}/{n}{SUFFIX}" for n in unlabeled],
    }


LAYOUTS: Mapping[str, Layout] = {
    "nnunet": Layout("{}_0000" + SUFFIX, "Dataset{:03d}_{}", _describe_nnunet),
    "msd": Layout("{}" + SUFFIX, "Task{:02d}_{}", _describe_msd),
}


def write_nnunet_dataset(
    items: Sequence[Item],
    folder: Path,
    splits: Sequence[Mapping[str, Sequence[str]]] | None = None,
    workers: int = 1,
) -> tuple[list[Written], list[str]]:
    """A whole nnU-Net raw data set in `folder` (its name: DatasetXXX_Name).

    `splits`: what splits_final.json shall hold, {"train": names, "val": names} for each fold;
    names that could not be read are taken out. Returns the cases written, and the problems of
    those left out. Raises `DataError` where `folder` holds other images, or nothing could be read.
    """
    written, problems = write_cases(items, folder, "nnunet", workers)
    write_description(written, folder, "nnunet", splits, problems)
    return written, problems


def write_cases(
    items: Sequence[Item], folder: Path, layout: str, workers: int = 1
) -> tuple[list[Written], list[str]]:
    """Write images and labels, in the order of `items`; a case without a label is for imagesTs.

    Cases that are there already and whose files and settings did not change are kept; cases that an
    earlier call wrote and that are not among `items` any more, or cannot be read now, are removed.
    dataset.json is removed first: `write_description` writes it when all is done. Returns the
    complete cases, and the problems of the others. Raises `DataError` where `folder` holds images
    that no export wrote, or two items have one name.
    """
    names = [item.name for item in items]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{folder}: two cases would be called {', '.join(twice)}; rename one")
    try:
        for name in (RECORDS, *FOLDERS):  # tools for MSD want imagesTs, even if it is empty
            (folder / name).mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        _remove_others(folder, set(names), layout)
        for name in (DATASET, SPLITS):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); give another folder"
        ) from error
    jobs = [_Job(item, folder, layout) for item in items]
    results = run_jobs(_export, jobs, workers, f"exporting to {folder.name}")
    written = [result for result in results if isinstance(result, Written)]
    failed = [result for result in results if isinstance(result, DataError)]
    return written, [problem for error in failed for problem in error.problems]


def remove_cases(cases: Sequence[Written], folder: Path, layout: str) -> None:
    """Take cases out of a data set again, such as duplicates."""
    for case in cases:
        _remove(_Job(case.item, folder, layout))


def write_description(
    cases: Sequence[Written],
    folder: Path,
    layout: str,
    splits: Sequence[Mapping[str, Sequence[str]]] | None = None,
    problems: Sequence[str] = (),
) -> None:
    """dataset.json, which makes the data set complete, and splits_final.json before it.

    Raises `DataError`, which begins with the `problems` of cases that were left out, where there is
    no labeled case, which none of these tools takes.
    """
    labeled = {case.item.name for case in cases if case.labeled}
    if not labeled:
        reason = f"{folder}: no case with a label could be written; there is no data set"
        raise DataError([*problems, reason])
    if splits is not None:
        kept = [
            {kind: sorted(labeled.intersection(names)) for kind, names in split.items()}
            for split in splits
        ]
        write_json(folder / SPLITS, kept)
    name = folder.name.partition("_")[2] or folder.name
    write_json(folder / DATASET, LAYOUTS[layout].describe(name, cases))


def image_path(folder: Path, layout: str, name: str, labeled: bool = True) -> Path:
    """Where the image of a case called `name` is in a data set; without a label in imagesTs."""
    file = LAYOUTS[layout].image_name.format(name)
    return folder / (IMAGES if labeled else UNLABELED) / file


def label_path(folder: Path, name: str) -> Path:
    """Where the label of a case called `name` is in a data set."""
    return folder / LABELS / (name + SUFFIX)


def write_arrays(
    folder: Path, layout: str, name: str, image_hu: np.ndarray, label: np.ndarray | None, grid: Grid
) -> None:
    """Write a case, (z, y, x) canonical on `grid`; its label first: with the image it is whole."""
    if label is not None:
        write_volume(label_path(folder, name), label, grid)
    write_volume(image_path(folder, layout, name, label is not None), image_hu, grid)


@dataclass(frozen=True)
class _Job:
    item: Item
    folder: Path
    layout: str

    @property
    def record(self) -> Path:
        return self.folder / RECORDS / f"{self.item.name}.json"

    @property
    def label(self) -> Path:
        return label_path(self.folder, self.item.name)

    def image(self, labeled: bool) -> Path:
        return image_path(self.folder, self.layout, self.item.name, labeled)


def _export(job: _Job) -> Written | DataError:
    """Write one case, or find it complete; or why that cannot be."""
    item = job.item
    try:
        if item.files.problem is not None:
            raise DataError(f"{item.source}: {item.files.problem}")
        key = content_key(
            item.files,
            job.folder / RECORDS,
            *(VERSION, item.source, job.layout),
            reading_rule(item.center, item.files),
        )
        return _recorded(job, key) or _write(job, key)
    except Exception as error:  # of any library that reads a file: the case's own problem
        _remove(job)
        return case_error(item.source, error)


def _write(job: _Job, key: str) -> Written:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes are kept
        case = load_case(job.item.center, job.item.files)
    _remove(job)
    grid = canonical_grid(case.grid)
    write_arrays(job.folder, job.layout, job.item.name, case.image_hu, case.label, grid)
    signature = sign_image(case.center, case.case_id, case.image_hu, case.spacing)
    record = {
        "key": key,
        "labeled": case.label is not None,
        "signature": to_text(signature),
        "notes": list(case.notes),
        "sizes": _sizes(job, case.label is not None),
    }
    write_json(job.record, record)
    return Written(job.item, case.label is not None, signature, case.notes)


def _recorded(job: _Job, key: str) -> Written | None:
    """What an earlier call wrote, where it is of these bytes and still there."""
    if not job.record.is_file():
        return None
    try:
        record = read_json(job.record)
        if record["key"] != key or record["sizes"] != _sizes(job, record["labeled"]):
            return None
        center, case_id = job.item.center.name, job.item.files.case_id
        signature = from_text(center, case_id, record["signature"])
        return Written(job.item, record["labeled"], signature, tuple(record["notes"]))
    except (DataError, OSError, KeyError, ValueError, TypeError):
        return None


def _sizes(job: _Job, labeled: bool) -> list[int]:
    """Bytes of image and label. Raises `OSError` where one is missing."""
    files = [job.image(labeled), *([job.label] if labeled else [])]
    return [path.stat().st_size for path in files]


def _remove(job: _Job) -> None:
    for path in (job.record, job.image(True), job.image(False), job.label):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left: nnU-Net would take hidden files for images too."""
    for name in FOLDERS:
        for path in (folder / name).glob(f".*{SUFFIX}"):
            path.unlink(missing_ok=True)


def _remove_others(folder: Path, names: set[str], layout: str) -> None:
    """Delete cases of earlier exports that are not wanted any more. Raises `DataError`."""
    known = {path.stem for path in (folder / RECORDS).glob("*.json")}
    ending = LAYOUTS[layout].image_name.removeprefix("{}")
    for name in FOLDERS:
        for path in sorted((folder / name).glob("*")):
            own_ending = SUFFIX if name == LABELS else ending
            case = path.name.removesuffix(own_ending)
            if volume_stem(path) is None or case in names:
                continue
            if case not in known:
                raise DataError(
                    f"{folder}: holds {name}/{path.name}, which no export wrote; give another "
                    "folder, or take it out"
                )
            path.unlink()
    for case in known - names:
        (folder / RECORDS / f"{case}.json").unlink()
