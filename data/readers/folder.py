"""Any other data set: a folder of images and a folder of labels, matched by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data.case import Center, DataError
from data.readers.dicom_kind import is_dicom_label
from data.readers.files import SegmentChoice, volume_stem
from data.readers.listing import (
    LOOSE_SLICES,
    SLICE_SUFFIXES,
    Found,
    Listing,
    add_file,
    is_slice,
    list_folder,
    names_of,
    normal,
    pair,
    walk,
)
from data.readers.series import choose_series, slice_folders, wanted_series

LABEL_MAP = {"background": (0,), "pancreas": (1,), "tumor": (2,)}
LABEL_GEOMETRY = "strict"
NO_LABEL = (
    "is a DICOM image, no segmentation (SEG) and no structure set (RTSTRUCT); give one of these, "
    "or convert labels to .nii.gz or .nrrd"
)

LABEL_AMONG_IMAGES = "is a DICOM label among the images; give its folder by labels, or move it"


def list_center(center: Center) -> Listing:
    """Images and labels of the same name; each is a volume file or a folder named as the case.

    An image's folder holds one volume or DICOM series, at any depth; a label's one volume or DICOM
    segmentation (SEG) or structure set (RTSTRUCT), which may also lie in `labels` itself. Without
    a key `labels` and without a folder "labels" the center is for prediction only: every label is
    None. Raises `DataError`.
    """
    image_folder = center.path / (center.images or "images")
    if center.images is None and center.path.is_dir() and not image_folder.is_dir():
        raise DataError(
            f"{image_folder}: no such folder; give the images' folder below path by the key images "
            '("." is path itself), or correct path'
        )
    images = _scan(center, image_folder, center.image_suffix, True)
    label_folder: Path = center.path / (center.labels or "labels")
    labels = Found()
    if center.labels is not None or label_folder.is_dir():
        labels = _scan(center, label_folder, center.label_suffix, False)
    listing = pair(center, images, labels)
    choice = _segment_choice(center)
    cases = tuple(
        replace(case, segments=choice) if _is_object(case.label) else case for case in listing.cases
    )
    if center.structures is not None and not any(case.segments for case in cases):
        raise DataError(
            f"{center.name}: structures names the segments of DICOM labels, and there is none "
            f"under {label_folder}; take it out, or correct labels"
        )
    return replace(listing, cases=cases)


def _is_object(label: Path | None) -> bool:
    return label is not None and volume_stem(label) is None


def _segment_choice(center: Center) -> SegmentChoice:
    """Segments by name (`structures`), by number (`label_map`), without both the known ones."""
    names = tuple(center.structures.items()) if center.structures is not None else ()
    numbers = tuple(center.label_map.items()) if center.label_map is not None else ()
    return SegmentChoice(names, numbers, center.has_lesions)


def _scan(center: Center, folder: Path, suffix: str, of_images: bool) -> Found:
    found, slices = Found(), 0
    for path in list_folder(folder):
        if path.is_dir():
            _add_folder(found, path, suffix, center if of_images else None)
        elif is_slice(path):
            if not is_dicom_label(path):
                slices += 1
            elif of_images:
                found.left_out.append((str(path), LABEL_AMONG_IMAGES))
            elif (stem := object_stem(path)).endswith(suffix):
                found.add(stem.removesuffix(suffix) or stem, path)
            else:
                found.left_out.append((str(path), f"has a name that does not end in {suffix!r}"))
        else:
            add_file(found, path, suffix)
    if slices:
        words = LOOSE_SLICES if of_images else f"files, each of which {NO_LABEL}"
        reason = f"holds {slices} {words}"
        found.left_out.append((str(folder), reason))
    return found


def object_stem(path: Path) -> str:
    """The name of a DICOM file without .dcm and the like; other dots belong to it."""
    return path.stem if path.suffix.lower() in SLICE_SUFFIXES else path.name


def _add_folder(found: Found, folder: Path, suffix: str, center: Center | None) -> None:
    """One case's folder. `center`: of an image, which may be DICOM; None for a label."""
    name = folder.name
    case_id = name.removesuffix(suffix) or name
    volumes = []
    for path in walk(folder):
        stem = volume_stem(Path(normal(path.name)))
        if center is None and is_slice(path) and is_dicom_label(path):
            stem = normal(object_stem(path))
        if stem and path.is_file() and stem.endswith(normal(suffix)):
            volumes.append(path)
    series = slice_folders(folder) if center is not None else []
    if series and center is not None and (not suffix or not volumes):
        try:
            path = series[0]
            if len(series) > 1:
                path = choose_series(folder, wanted_series(center, case_id))[0].folder
            found.add(case_id, path)
        except DataError as error:
            found.problems[normal(case_id)] = error.problems[0]
    elif len(volumes) == 1:
        found.add(case_id, volumes[0])
    elif volumes:
        key = "image_suffix" if center is not None else "label_suffix"
        kind = "labels" if any(map(_is_object, volumes)) else "volumes"
        found.problems[normal(case_id)] = (
            f"{folder}: holds {len(volumes)} {kind} ({names_of(volumes)}); keep one, or say by "
            f"{key} how the name of the right one ends"
        )
    else:
        kind = "neither a volume nor DICOM slices" if center is not None else "no volume"
        ending = f" whose name ends in {suffix!r}" if suffix else ""
        reason = f"holds {kind}{ending}; fetch the files again"
        if center is None and slice_folders(folder):
            reason = f"holds files, each of which {NO_LABEL}"
        found.empty[normal(case_id)] = (str(folder), reason)
