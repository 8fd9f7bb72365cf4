"""DICOM folders: where slices lie, which series they form, and the one that is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import Center, DataError
from data.readers.dicom_kind import is_dicom_label
from data.readers.listing import is_slice, list_folder, normal, walk
from data.readers.volume import itk_reason

UID, NUMBER, DESCRIPTION, IMAGE_TYPE = "0020|000e", "0020|0011", "0008|103e", "0008|0008"


@dataclass(frozen=True)
class Series:
    """One series: its files, below `folder`. `is_scout`: a localizer."""

    folder: Path
    uid: str
    description: str
    files: tuple[str, ...]
    is_scout: bool

    def __str__(self) -> str:
        name = f' "{self.description}"' if self.description else ""
        return f"{self.uid}{name} ({len(self.files)} slices{', scout' if self.is_scout else ''})"


def slice_folders(folder: Path) -> list[Path]:
    """The folders at or below this one that hold slices themselves, sorted; links are followed.

    DICOM segmentations and structure sets are no slices.
    Raises `DataError` where a folder cannot be listed.
    """
    found: dict[Path, None] = {}
    for path in walk(folder):
        if path.parent not in found and is_slice(path) and not is_dicom_label(path):
            found[path.parent] = None
    return list(found)


def list_series(folders: Iterable[Path]) -> list[Series]:
    """Every series in these folders; reads the headers of all their files. Raises `DataError`."""
    found: dict[str, Series] = {}
    for series in (series for folder in folders for series in _series_in(folder)):
        known = found.get(series.uid)
        if known is not None:  # one series spread over several folders, as on a CD
            parent = Path(os.path.commonpath((known.folder, series.folder)))
            series = replace(known, folder=parent, files=(*known.files, *series.files))
        found[series.uid] = series
    return list(found.values())


def _series_in(folder: Path) -> Iterator[Series]:
    import SimpleITK as sitk

    for path in list_folder(folder):  # the library would stop at a broken link, without a word
        if path.is_symlink() and not path.exists():
            raise DataError(
                f"{path}: is a link to {os.readlink(path)}, which does not exist, so a slice may "
                "be missing; restore the file or take out the link"
            )
    try:
        identifiers = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    except RuntimeError as error:
        raise DataError(
            f"{folder}: its DICOM files cannot be sorted into series ({itk_reason(error)}): a tag "
            "holds what it must not; export the series again"
        ) from error
    for uid in identifiers:
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        files = tuple(name for name in names if is_slice(Path(name)))
        if not files or is_dicom_label(Path(files[0])):
            continue
        reader = sitk.ImageFileReader()
        reader.SetFileName(files[0])
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            yield Series(folder, uid, "", files, False)  # reading it will say what is wrong
            continue
        tags = {
            tag: reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""
            for tag in (UID, NUMBER, DESCRIPTION, IMAGE_TYPE)
        }
        number = f"{tags[NUMBER]}: " if tags[NUMBER] and tags[DESCRIPTION] else ""
        is_scout = "LOCALIZER" in tags[IMAGE_TYPE].upper()
        yield Series(folder, tags[UID] or uid, number + tags[DESCRIPTION], files, is_scout)


def wanted_series(center: Center, case_id: str) -> str | None:
    """What the center's key `series` says of a case: one text for all, or a table by case."""
    if center.series is None or isinstance(center.series, str):
        return center.series
    return {normal(name): text for name, text in center.series.items()}.get(normal(case_id))


def choose_series(
    where: Path | Sequence[Path], wanted: str | None = None
) -> tuple[Series, tuple[str, ...]]:
    """The series at or below a folder, or in several, and notes on what was left out.

    `wanted`: a series UID, "#2" for the second of the list, or a part of the description in any
    case. Without it there must be one series that is no scout. Raises `DataError` with the list of
    all where that is not so.
    """
    if isinstance(where, Path) and not where.is_dir():
        raise DataError(f"{where}: no such folder; correct the path")
    found = list_series(slice_folders(where) if isinstance(where, Path) else where)
    folder = where if isinstance(where, Path) else Path(os.path.commonpath(where))
    if wanted is None:
        chosen = [series for series in found if not series.is_scout] or found
    else:
        numbered = enumerate(found, 1)
        chosen = [series for n, series in numbered if wanted in (series.uid, f"#{n}")]
        chosen = chosen or [s for s in found if wanted.casefold() in s.description.casefold()]
    if len(chosen) == 1:
        rest = "; ".join(str(series) for series in found if series is not chosen[0])
        notes = (f"of several DICOM series {chosen[0]} is read, not {rest}",) if rest else ()
        return chosen[0], notes
    listed = "; ".join(
        f"#{n} {s} in {s.folder.relative_to(folder)}" for n, s in enumerate(found, 1)
    )
    listed = listed.replace(" in .", "")
    if not found:
        inside = len(list_folder(folder))
        raise DataError(
            f"{folder}: holds 0 DICOM series ({inside} files or folders in it, none of them a "
            "DICOM slice); fetch the series again"
        )
    if wanted is not None:
        raise DataError(
            f"{folder}: series = {wanted!r} fits {len(chosen)} of its {len(found)} DICOM series "
            f"({listed}); give a UID, a number of this list, or words that only one description has"
        )
    raise DataError(
        f"{folder}: holds {len(found)} DICOM series ({listed}); say which one to read by "
        "series in centers.toml, or --series of predict.py (a UID, a number of this list as #1, or "
        "a part of its description), or keep one in the folder"
    )
