"""The CTs that a user names, without a center: a file, a DICOM folder, a folder of both, a CSV."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import Case, DataError
from data.readers import load_image
from data.readers.dicom import is_no_ct
from data.readers.files import VOLUME_SUFFIXES, volume_stem
from data.readers.listing import NO_FORMAT, Found, add_file, is_slice, list_folder, names_of, walk
from data.readers.series import UID, slice_folders
from data.readers.slices import IrregularError

PATH_COLUMNS = ("path", "image", "ct", "file")
CASE_COLUMNS = ("case", "case_id", "id", "name")
PANCREAS_COLUMNS = ("pancreas", "pancreas_mask", "mask")
STUDY, PATIENT = "0020|000d", "0010|0020"


@dataclass(frozen=True)
class Scan:
    """One CT to predict. `image`: a volume file, or a folder with DICOM. `case_id`: a file name.

    `pancreas`: a mask of it that the user has. `problem`: why it cannot be read, if that is known.
    """

    case_id: str
    image: Path
    pancreas: Path | None = None
    problem: str | None = None


def list_scans(
    where: Path, ignored: Sequence[Path] = ()
) -> tuple[list[Scan], list[tuple[str, str]]]:
    """The scans that `where` names, sorted by id, and (path, reason) of what is left out.

    `where`: a volume file; a folder with one DICOM study or series; a folder in which each volume
    file and each folder (with one volume, or DICOM) is a scan; or a CSV file with a column "path",
    relative to the file, and, if wanted, "case" and "pancreas" (a mask's path). `ignored`: folders
    that are passed over, as that of the results. Raises `DataError` where there is no scan.
    """
    left_out: list[tuple[str, str]] = []
    if where.is_file():
        scans = _from_table(where) if where.suffix.lower() == ".csv" else [_from_file(where)]
    elif where.is_dir():
        scans = _from_folder(where, {path.resolve() for path in ignored}, left_out)
    else:
        raise DataError(f"{where}: no such file or folder; correct the path")
    if not scans:
        reasons = "".join(f"; {path} {reason}" for path, reason in left_out[:3])
        formats = f"{', '.join(VOLUME_SUFFIXES)} or DICOM slices"
        raise DataError(f"{where}: holds no CT ({formats}); correct the path{reasons}")
    return sorted(_with_own_names(scans), key=lambda scan: scan.case_id), left_out


def load_scan(scan: Scan, series: str | None = None, repair: bool = False) -> Case:
    """The CT of a scan, see `load_image`. Raises `DataError`, also for a known problem."""
    if scan.problem is not None:
        raise DataError(scan.problem)
    try:
        return load_image(scan.image, scan.case_id, series=series, repair=repair)
    except IrregularError as error:
        raise DataError(f"{error}; or let --repair resample it") from error


def give_masks(scans: Sequence[Scan], where: Path) -> list[Scan]:
    """The scans with their pancreas masks: `where` is the mask of the one scan, or a folder with
    `<case>.nii.gz` (any format) or `<case>/pancreas.nii.gz` for each; of one scan `pancreas.nii.gz`
    will do. A scan without a mask there carries that as its problem. Raises `DataError`.
    """
    if where.is_file():
        if len(scans) > 1:
            raise DataError(
                f"{where}: is one mask for {len(scans)} scans; give a folder of masks named as the "
                "scans, or name them in a column pancreas of a CSV file"
            )
        return [replace(scans[0], pancreas=where)]
    if not where.is_dir():
        raise DataError(f"{where}: no such file or folder; correct the path of the mask")
    masks = {volume_stem(path): path for path in list_folder(where) if volume_stem(path)}
    given = []
    for scan in scans:
        inner = where / scan.case_id
        own = [path for path in (inner.iterdir() if inner.is_dir() else ()) if volume_stem(path)]
        mask = masks.get(scan.case_id) or (masks.get("pancreas") if len(scans) == 1 else None)
        mask = mask or next((path for path in sorted(own) if volume_stem(path) == "pancreas"), None)
        if mask is None:
            given.append(replace(scan, problem=f"{where}: has no mask of {scan.case_id}; add it"))
        else:
            given.append(replace(scan, pancreas=mask))
    return given


def _from_file(path: Path) -> Scan:
    stem = volume_stem(path)
    if stem:
        return Scan(stem, path)
    if is_slice(path):
        raise DataError(f"{path}: is one DICOM file; give the folder of the whole series")
    raise DataError(f"{path}: {NO_FORMAT}")


def _from_folder(folder: Path, ignored: set[Path], left_out: list[tuple[str, str]]) -> list[Scan]:
    entries = [path for path in list_folder(folder) if path.resolve() not in ignored]
    folders = [path for path in entries if path.is_dir()]
    files = [path for path in entries if not path.is_dir()]
    found = Found()
    for path in files:
        if not is_slice(path):
            add_file(found, path)
    with_slices = any(map(is_slice, files))
    if with_slices or (not found.count and _is_one_study(folders)):
        left_out += [
            (str(path), "lies next to DICOM slices; give it by its own path")
            for paths in found.paths.values()
            for path in paths
        ]
        return [Scan(folder.resolve().name, folder)]
    left_out += found.left_out
    names = found.spelled
    scans = [Scan(names[name], path) for name, paths in found.paths.items() for path in paths]
    scans += [Scan(name, folder / name, problem=why) for name, why in found.problems.items()]
    for path in folders:
        scans += _from_case_folder(path, left_out)
    return scans


def _from_case_folder(folder: Path, left_out: list[tuple[str, str]]) -> list[Scan]:
    """The scan of one entry of a folder of scans; which series of it is read, reading says."""
    if slice_folders(folder):
        return [Scan(folder.name, folder)]
    volumes = [path for path in walk(folder) if path.is_file() and volume_stem(path)]
    if len(volumes) == 1:
        return [Scan(folder.name, volumes[0])]
    if not volumes:
        left_out.append((str(folder), "holds neither a volume nor DICOM slices"))
        return []
    problem = (
        f"{folder}: holds {len(volumes)} volumes ({names_of(volumes[:5])}); give the right ones "
        "in a CSV file, or give this folder itself"
    )
    return [Scan(folder.name, folder, problem=problem)]


def _is_one_study(folders: Sequence[Path]) -> bool:
    """Whether all DICOM below is of one patient's study: series to choose from, not cases.

    Told by the first slice of each folder. What says nothing of its study is none, but reports
    and plans are passed over.
    """
    places = [place for folder in folders for place in slice_folders(folder)]
    heads = [head for place in places if (head := _identity(place)) is not None]
    studies = {(patient, study) for patient, study, _ in heads}
    series = Counter(uid for _, _, uid in heads)
    return (
        len(studies) == 1
        and "" not in {study for _, study, _ in heads}
        and set(series.values()) == {1}
    )


def _identity(folder: Path) -> tuple[str, str, str] | None:
    """Patient, study and series of the first slice in a folder, "" for what it does not say.

    None where that is no image.
    """
    import SimpleITK as sitk

    first = next(path for path in list_folder(folder) if is_slice(path))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(first))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        with first.open("rb") as stream:
            return None if is_no_ct(stream.read(1024)) else ("", "", "")
    patient, study, series = (
        reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""
        for tag in (PATIENT, STUDY, UID)
    )
    return patient, study, series


def _from_table(path: Path) -> list[Scan]:
    """The rows of a CSV file. Raises `DataError`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            sample = stream.read(4096)
            stream.seek(0)
            delimiter = ";" if sample.count(";") > sample.count(",") else ","
            rows = list(csv.DictReader(stream, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); restore the file") from error
    columns = {str(name).strip().lower(): name for name in (rows[0] if rows else {})}
    names = [
        _column(columns, choices) for choices in (PATH_COLUMNS, CASE_COLUMNS, PANCREAS_COLUMNS)
    ]
    if names[0] is None:
        raise DataError(
            f"{path}: has no column {' or '.join(PATH_COLUMNS)}, but {', '.join(columns) or 'none'}"
            "; name the column of the images path"
        )
    return list(_scans_of_rows(path, rows, names))


def _column(columns: dict[str, str], choices: Sequence[str]) -> str | None:
    return next((columns[name] for name in choices if name in columns), None)


def _scans_of_rows(
    table: Path, rows: Sequence[dict[str, str]], names: Sequence[str | None]
) -> Iterator[Scan]:
    for number, row in enumerate(rows, 2):
        given, case_id, mask = ((row.get(name) or "").strip() if name else "" for name in names)
        if not given:
            raise DataError(f"{table}: line {number} has no path; fill it, or take the line out")
        image = table.parent / given
        pancreas = table.parent / mask if mask else None
        stem = volume_stem(image) or image.name
        problem = None
        if not image.exists():
            problem = f"{image}: no such file or folder; correct line {number} of {table}"
        elif image.is_file() and volume_stem(image) is None:
            problem = f"{image}: {NO_FORMAT}"
        yield Scan(case_id or stem, image, pancreas, problem)


def _with_own_names(scans: Sequence[Scan]) -> Iterator[Scan]:
    """Each scan with an id that no other has, whatever the case of its letters, and that can name
    a folder. Of the same stem (a.nii.gz, a.nrrd) each takes its whole file name.
    """
    clean = [replace(scan, case_id=_as_name(scan.case_id)) for scan in scans]
    counts = Counter(scan.case_id.casefold() for scan in clean)
    taken: set[str] = set()
    for scan in clean:
        own = _as_name(scan.image.name) if counts[scan.case_id.casefold()] > 1 else scan.case_id
        name, number = own, 1
        while name.casefold() in taken:
            number += 1
            name = f"{own}_{number}"
        taken.add(name.casefold())
        yield replace(scan, case_id=name)


def _as_name(text: str) -> str:
    """The text as the name of a folder: without separators, control characters, leading dots."""
    return re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", text).lstrip(".").strip() or "scan"
