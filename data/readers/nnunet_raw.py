"""nnU-Net raw: DatasetXXX_Name/{dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz}."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data.case import Center, DataError, LabelMap
from data.readers.files import read_json
from data.readers.listing import Found, Listing, names_of, pair, scan_files

CHANNEL = "_0000"  # nnU-Net numbers the channels; a CT has one
LABEL_GEOMETRY = "strict"
NAMES = {
    "background": {"background"},
    "pancreas": {"pancreas", "normal pancreas", "pancreas parenchyma"},
    "tumor": {
        *("tumor", "tumour", "cancer", "lesion", "pdac", "pda", "pancreatic cancer"),
        *("pancreatic tumor", "pancreatic tumour", "pancreatic lesion"),
    },
}
IGNORE = "ignore"  # nnU-Net leaves such voxels out of its loss; here there is no such thing


def list_center(center: Center) -> Listing:
    """The training cases, whose images have channel 0000 alone. Raises `DataError`."""
    volumes = scan_files(center.path / "imagesTr")
    images = _channels(volumes)
    labels = scan_files(center.path / "labelsTr")
    if volumes.paths and not any(name.endswith(CHANNEL) for name in volumes.paths):
        raise DataError(
            f"{center.path / 'imagesTr'}: no name ends in {CHANNEL} (nnU-Net's channel number); "
            'rename the images or use reader = "folder"'
        )
    for name in [name for name in labels.paths if name.endswith(CHANNEL)]:
        case_id = name.removesuffix(CHANNEL)
        if case_id in images.paths and case_id not in labels.paths:
            own = labels.paths[case_id] = labels.paths.pop(name)
            labels.problems[case_id] = (
                f"{own[0]}: a label has no channel number; rename it, without {CHANNEL}"
            )
    listing = pair(center, images, labels)
    return Listing(
        listing.images, listing.labels, listing.cases, (*listing.left_out, *_ignored(center))
    )


def _channels(volumes: Found) -> Found:
    """Case id -> image, from the names with a channel number."""
    images = Found(left_out=volumes.left_out)
    further: dict[str, list[Path]] = {}
    for name, own in volumes.paths.items():
        parts = re.fullmatch(r"(.+)(_\d{4})", name)
        if parts is None:
            images.paths[name] = own
            images.problems[name] = (
                f"{own[0]}: its name lacks nnU-Net's channel number; rename it, with {CHANNEL}"
            )
        elif parts[2] == CHANNEL:
            images.paths[parts[1]] = own
            images.spelled[parts[1]] = volumes.spelled[name].removesuffix(CHANNEL)
        else:
            further.setdefault(parts[1], []).extend(own)
    for case_id, own in further.items():
        images.problems[case_id] = (
            f"{own[0].parent}: {case_id} has further channels ({names_of(own)}), and one CT is "
            "read; make a data set with the CT alone as channel 0000"
        )
    for name, problem in volumes.problems.items():
        images.problems[name.removesuffix(CHANNEL)] = problem
    return images


def _ignored(center: Center) -> list[tuple[str, str]]:
    """What to say where dataset.json has an ignore label."""
    path = center.path / "dataset.json"
    if center.label_map is not None or not path.is_file():
        return []
    labels = read_json(path).get("labels")
    if not isinstance(labels, dict) or IGNORE not in labels:
        return []
    reason = f"its label {IGNORE} ({labels[IGNORE]}) is not known here: cases with it are refused"
    return [(str(path), reason)]


def label_map(center: Center) -> LabelMap:
    """The label map of dataset.json (name -> value or values, or nnU-Net 1's value -> name).

    Raises `DataError` where a name is unknown: then the center needs a label_map of its own.
    """
    path = center.path / "dataset.json"
    labels = read_json(path).get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(
            f'{path}: its key "labels" is no table of names and values; correct it, or add a '
            "label_map to the center"
        )
    result: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        name, values = (value, key) if re.fullmatch("[0-9]+", key) else (key, value)
        if name == IGNORE:
            continue
        numbers = _integers(values)
        if not isinstance(name, str) or numbers is None:
            raise DataError(
                f'{path}: its key "labels" holds {key!r}: {str(value)[:80]!r}, which is no name '
                "with an integer or a list of integers; correct it, or add a label_map to the "
                "center"
            )
        for ours, names in NAMES.items():
            if name.lower().replace("_", " ").strip() in names:
                result[ours] = result.get(ours, ()) + numbers
                break
        else:
            raise DataError(
                f"{path}: label name {name!r} is unknown; add to the center a label_map with "
                "background, pancreas and tumor"
            )
    return result


def _integers(values: Any) -> tuple[int, ...] | None:
    """The values of one name as integers; None where they are none."""
    numbers = []
    for value in values if isinstance(values, list) else [values]:
        text = isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,9}\s*", value) is not None
        whole = isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, int) or text or whole):
            return None
        numbers.append(int(value))
    return tuple(numbers) if numbers else None
