"""What the readers share about files: `CaseFiles`, volume names, junk that is no image."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.case import Center, DataError

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True)
class SegmentChoice:
    """Which segments or regions of a DICOM label are which class; () each: the known names.

    `names`: (class, its segments' names); others are ignored, but each class must be found.
    `numbers`: (class, its segments' numbers); others are refused. `tumor_needed`: whether a tumor
    that `names` names must be there.
    """

    names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    numbers: tuple[tuple[str, tuple[int, ...]], ...] = ()
    tumor_needed: bool = True


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case. `problem`: why it cannot be read, raised by `load_case`.

    `masks`: (class, file) where the label is a folder of masks, one for each structure.
    `segments`: where the label is a DICOM segmentation or structure set.
    """

    case_id: str
    image: Path  # a volume file, or the folder that holds the slices of a DICOM series
    label: Path | None
    patient_id: str
    problem: str | None = None
    masks: tuple[tuple[str, Path], ...] = ()
    segments: SegmentChoice | None = None


def volume_stem(path: Path) -> str | None:
    """The name without its volume suffix, or None where it is no volume or a `._*` junk file."""
    if path.name.startswith("."):
        return None
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `DataError` naming the file where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # also a number of 5000 digits
        raise DataError(f"{path}: cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object; restore the file")
    return content


def patient_of(case_id: str, center: Center) -> str:
    """The patient a case belongs to: the first group of `patient_pattern`, else the case itself."""
    if center.patient_pattern is None:
        return case_id
    found = re.search(center.patient_pattern, case_id)
    return found.group(1) if found else case_id
