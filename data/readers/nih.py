"""NIH Pancreas-CT: one DICOM series per PANCREAS_XXXX, labels as labelXXXX.nii.gz; no lesions."""

from __future__ import annotations

import re
from pathlib import Path

from data.case import Center, DataError
from data.readers.listing import (
    WITHDRAWN,
    Found,
    Listing,
    is_slice,
    list_folder,
    pair,
    scan_below,
    walk,
)
from data.readers.series import choose_series, wanted_series

LABEL_MAP = {"background": (0,), "pancreas": (1,)}
# Published labels run against y of their DICOM series, and their headers do not place them: unless
# a label's header puts it exactly on its series, its voxels are mirrored in y.
LABEL_GEOMETRY = "flip_y"
WITHDRAWN_CASES = ("PANCREAS_0025", "PANCREAS_0070")  # by the publisher: 82 cases, 80 used
CASE = re.compile(r"PANCREAS_\d{4}")


def list_center(center: Center) -> Listing:
    """The cases that were not withdrawn. Raises `DataError`.

    `images` and `labels` of the center narrow the search; without them both are looked for
    anywhere below its path.
    """
    images = _find_series(center)
    found = scan_below(center.path / (center.labels or "."))
    labels = Found(left_out=found.left_out)
    for name, own in found.paths.items():
        number = re.fullmatch(r"label(\d{4})", name)
        if number is not None:
            labels.paths[f"PANCREAS_{number[1]}"] = own
        elif CASE.fullmatch(name):
            reason = 'is an image, but no DICOM; read converted images with reader = "folder"'
            labels.left_out += [(str(path), reason) for path in own]
    for name, problem in found.problems.items():
        labels.problems[name.replace("label", "PANCREAS_", 1)] = problem
    if not images.paths and not images.problems:
        reasons = "".join(f"; {path} {reason}" for path, reason in labels.left_out[:1])
        raise DataError(
            f"{center.path}: no folder PANCREAS_XXXX with DICOM slices in it; correct the path"
            f"{reasons}"
        )
    listing = pair(center, images, labels)
    cases = tuple(case for case in listing.cases if case.case_id not in WITHDRAWN_CASES)
    withdrawn = [case.case_id for case in listing.cases if case.case_id in WITHDRAWN_CASES]
    left_out = [
        *listing.left_out,
        *((name, WITHDRAWN) for name in withdrawn),
    ]
    return Listing(listing.images, listing.labels, cases, tuple(left_out))


def _find_series(center: Center) -> Found:
    """PANCREAS_XXXX -> the folder with its slices, at or below a folder of that name."""
    folder = center.path / (center.images or ".")
    found = Found()
    for path in walk(folder):
        if path.parent in {own for paths in found.paths.values() for own in paths}:
            continue
        parts = path.relative_to(folder.parent).parts[:-1]
        case_id = next((part for part in parts if CASE.fullmatch(part)), None)
        if case_id is not None and is_slice(path):
            found.add(case_id, path.parent)
    for case_id, own in found.paths.items():
        if len(own) > 1:
            try:
                wanted = wanted_series(center, case_id)
                found.paths[case_id] = [choose_series(own, wanted)[0].folder]
            except DataError as error:
                found.problems[case_id] = error.problems[0]
    for path in (path for parent in (folder, *_folders(folder)) for path in _folders(parent)):
        if CASE.fullmatch(path.name) and path.name not in found.paths:
            found.empty[path.name] = (str(path), "holds no DICOM slices; fetch the series again")
    return found


def _folders(folder: Path) -> list[Path]:
    return [path for path in list_folder(folder) if path.is_dir()]
