"""Labels that are DICOM objects: what they refer to, and which of their segments are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.case import LABEL_PANCREAS, LABEL_TUMOR, DataError
from data.readers.content import FETCH_AGAIN
from data.readers.dicom_kind import LABEL_CLASSES, STRUCTURE_SET
from data.readers.files import SegmentChoice
from data.readers.nnunet_raw import NAMES
from data.readers.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

VALUES = {"pancreas": LABEL_PANCREAS, "tumor": LABEL_TUMOR}
# SNOMED CT codes (scheme SCT): pancreas; neoplasm, primary, malignant primary, mass, lesion.
CODES = {
    "pancreas": {"15776009"},
    "tumor": {"108369006", "372087000", "86049000", "4147007", "52988006"},
}


def read_dicom_label(path: Path, image: Volume) -> Dataset:
    """The object in a file. Raises `DataError` where it is none, or of another patient position."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
    except (OSError, pydicom.errors.InvalidDicomError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {FETCH_AGAIN}") from error
    if str(dataset.get("SOPClassUID") or "") not in LABEL_CLASSES:
        raise DataError(f"{path}: is DICOM, but neither a segmentation nor a structure set")
    frames = frames_of_reference(dataset)
    if image.frame_of_reference and frames and image.frame_of_reference not in frames:
        raise DataError(
            f"{path}: lies in another frame of reference ({', '.join(sorted(frames))}) than its "
            f"image ({image.frame_of_reference}), so it was made on another scan; give the object "
            "of this series"
        )
    return dataset


def is_structure_set(dataset: Dataset) -> bool:
    """Whether the object holds contours (RTSTRUCT), not voxels (SEG)."""
    return str(dataset.SOPClassUID) == STRUCTURE_SET


def frames_of_reference(dataset: Dataset) -> set[str]:
    """The frames of reference that the object's parts lie in."""
    parts = [dataset, *(dataset.get("StructureSetROISequence") or [])]
    keywords = ("FrameOfReferenceUID", "ReferencedFrameOfReferenceUID")
    return {str(part.get(k)) for part in parts for k in keywords if part.get(k)}


def reference_notes(dataset: Dataset, image: Volume) -> tuple[str, ...]:
    """A note where the object says that it was made on another series of the same frame."""
    named = {str(item.get("SeriesInstanceUID")) for item in _series(dataset)} - {"None"}
    if not image.series or not named or image.series in named:
        return ()
    return (
        f"its label refers to series {', '.join(sorted(named))}, not to the one that is read "
        f"({image.series}), in the same frame of reference: is it that of another phase?",
    )


def _series(dataset: Dataset) -> list[Dataset]:
    """The items that name a series, of either kind of object."""
    found = list(dataset.get("ReferencedSeriesSequence") or [])
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            found += list(study.get("RTReferencedSeriesSequence") or [])
    return found


def choose_segments(
    names: Mapping[int, str],
    choice: SegmentChoice,
    path: Path,
    codes: Mapping[int, str] | None = None,
) -> dict[int, int]:
    """Number of each wanted segment -> its class (1 pancreas, 2 tumor).

    `names`: of all segments by number. `codes`: their SNOMED CT codes. Raises `DataError` with the
    list of all where the choice does not fit them.
    """
    listed = ", ".join(f"{number} {name!r}" for number, name in sorted(names.items()))
    if not names:
        raise DataError(f"{path}: holds no segment; give the object that has the label")
    if choice.names:
        return _by_name(names, choice, path, listed)
    found: dict[int, int] = {}
    for number, name in names.items():
        if choice.numbers:
            kinds = [kind for kind, wanted in choice.numbers if number in wanted]
        else:
            kinds = _known(name, (codes or {}).get(number, ""))
        if not kinds:
            raise DataError(
                f"{path}: segment {number} {name!r} is unknown (it holds {listed}); name those of "
                "the pancreas and the tumor by structures, or give their numbers by label_map"
            )
        if kinds != ["background"]:
            found[number] = max(VALUES[kind] for kind in kinds if kind != "background")
    if not found:
        raise DataError(f"{path}: holds no segment of pancreas or tumor ({listed})")
    return found


def _by_name(
    names: Mapping[int, str], choice: SegmentChoice, path: Path, listed: str
) -> dict[int, int]:
    found: dict[int, int] = {}
    for kind, wanted in choice.names:
        folded = {_fold(name) for name in wanted}
        own = [number for number, name in names.items() if _fold(name) in folded]
        if not own and (kind != "tumor" or choice.tumor_needed):
            raise DataError(
                f"{path}: holds no segment {' or '.join(map(repr, wanted))} for the {kind}, but "
                f"{listed}; correct the names under structures"
            )
        for number in own:
            found[number] = max(found.get(number, 0), VALUES[kind])
    return found


def _known(name: str, code: str) -> list[str]:
    """The class of a segment by its name, or by its code."""
    by_name = [kind for kind, names in NAMES.items() if _fold(name) in names]
    return by_name or [kind for kind, codes in CODES.items() if code in codes]


def _fold(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def numbered(items: Sequence[Dataset], number: str, name: str) -> dict[int, str]:
    """Number -> name of a sequence's items."""
    return {int(item[number].value): str(item.get(name) or "") for item in items}
