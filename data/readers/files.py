"""What the readers share about files: `CaseFiles`, volume names, junk that is no image."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.case import Center, DataError

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case. `problem`: why it cannot be read, raised by `load_case`."""

    case_id: str
    image: Path  # a volume file, or a folder that holds one DICOM series
    label: Path | None
    patient_id: str
    problem: str | None = None


def volume_stem(path: Path) -> str | None:
    """The name without its volume suffix, or None where it is no volume or a `._*` junk file."""
    if path.name.startswith("."):
        return None
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def list_volumes(folder: Path, recursive: bool = False) -> dict[str, list[Path]]:
    """Stem -> files of that stem, sorted; hidden and `._*` files are no images and are skipped.

    Raises `DataError` where the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct the path in the centers file")
    volumes: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        stem = volume_stem(path)
        if stem and path.is_file():
            volumes.setdefault(stem, []).append(path)
    return volumes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `DataError` naming the file where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
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


def match_by_name(
    center: Center, images: dict[str, list[Path]], labels: dict[str, list[Path]]
) -> list[CaseFiles]:
    """One `CaseFiles` per name that is in either; what does not pair up carries its `problem`."""
    cases = []
    check_exclude(center, images.keys() | labels.keys())
    for case_id in sorted(images.keys() | labels.keys()):
        if case_id in center.exclude:
            continue
        own_images, own_labels = images.get(case_id, []), labels.get(case_id, [])
        problem = None
        if not own_images:
            problem = (
                f"label {own_labels[0]} has no image of the same name; add the image or list "
                f'"{case_id}" under exclude'
            )
        for own in (own_images, own_labels):
            if len(own) > 1:
                problem = f"{len(own)} files of one name ({_names(own)}); keep one of them"
        image = (own_images or own_labels)[0]
        label = own_labels[0] if own_labels else None
        cases.append(CaseFiles(case_id, image, label, patient_of(case_id, center), problem))
    return cases


def check_exclude(center: Center, case_ids: Collection[str]) -> None:
    """A name under `exclude` that is no case is a slip of the pen. Raises `DataError`."""
    unknown = [name for name in center.exclude if name not in case_ids]
    if unknown:
        raise DataError(
            f"{center.name}: exclude names {', '.join(unknown)}, which is no case of "
            f"{center.path}; correct the name or take it out"
        )


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def strip_suffix(volumes: dict[str, list[Path]], suffix: str) -> dict[str, list[Path]]:
    """Only the stems that end in `suffix`, without it."""
    if not suffix:
        return volumes
    return {stem[: -len(suffix)]: paths for stem, paths in volumes.items() if stem.endswith(suffix)}
