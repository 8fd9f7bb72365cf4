"""One mask for each structure: PanTS and TotalSegmentator.

PanTS: ImageTr/<id>/ct.nii.gz with LabelTr/<id>/segmentations/pancreas.nii.gz, ... TotalSegmentator:
<id>/ct.nii.gz with <id>/segmentations/pancreas.nii.gz, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data.case import Center
from data.readers.files import CaseFiles, volume_stem
from data.readers.listing import Found, Listing, list_folder, names_of, normal, pair

LABEL_MAP = {"background": (0,), "pancreas": (1,), "tumor": (2,)}  # of the masks, joined
LABEL_GEOMETRY = "strict"
STRUCTURES: Mapping[str, tuple[str, ...]] = {
    "pancreas": ("pancreas",),
    "tumor": ("pancreatic_lesion",),
}
IMAGE = "ct"
MASKS = "segmentations"
IMAGE_FOLDER, LABEL_FOLDER = "ImageTr", "LabelTr"  # PanTS; without them all lies below `path`


def list_center(center: Center) -> Listing:
    """The folders that hold an image or masks; a case has all masks that `structures` names.

    A mask of the tumor may be missing where the center has no lesions. Raises `DataError`.
    """
    image_folder = _folder(center, center.images, IMAGE_FOLDER)
    label_folder = image_folder
    if center.labels is not None or (center.path / LABEL_FOLDER).is_dir():
        label_folder = _folder(center, center.labels, LABEL_FOLDER)
    images, labels = _images(image_folder, center.image_suffix or IMAGE), _masks(label_folder)
    for case_id in images.empty.keys() & labels.empty.keys():
        del labels.empty[case_id]  # said once
    for case_id in labels.empty.keys() & images.paths.keys():
        del labels.empty[case_id]  # an image without a label, as in any other layout
    listing = pair(center, images, labels)
    return replace(listing, cases=tuple(_with_masks(center, case) for case in listing.cases))


def _folder(center: Center, given: str | None, usual: str) -> Path:
    if given is not None:
        return center.path / given
    return center.path / usual if (center.path / usual).is_dir() else center.path


def _images(folder: Path, name: str) -> Found:
    """Case folder -> the one volume in it whose name ends in `name`."""
    found = Found()
    for path in list_folder(folder):
        if not path.exists():
            found.problems[normal(path.name)] = (
                f"{path}: is a link to what does not exist; restore the folder or the link"
            )
        if not path.is_dir():
            continue
        case_id, inside = normal(path.name), list_folder(path)
        volumes = [file for file in inside if (volume_stem(file) or "").endswith(name)]
        if len(volumes) == 1 and volumes[0].exists():
            found.add(path.name, volumes[0])
        elif volumes:
            found.problems[case_id] = (
                f"{path}: {names_of(volumes)} cannot be told apart, or cannot be read; keep one "
                "image, or say by image_suffix how its name ends"
            )
        else:
            others = f", but {names_of(inside[:3])}" if inside else ""
            reason = f"holds no image {name}.nii.gz{others}; fetch or convert it"
            found.empty[case_id] = (str(path), reason)
    return found


def _masks(folder: Path) -> Found:
    """Case folder -> the folder of its masks."""
    found = Found()
    for path in list_folder(folder):
        if not path.is_dir():
            continue
        masks = path / MASKS if (path / MASKS).is_dir() else path
        if any(volume_stem(file) not in (None, IMAGE) for file in list_folder(masks)):
            found.add(normal(path.name), masks)
        else:
            reason = f"holds no folder {MASKS} with masks; fetch the labels again"
            found.empty[normal(path.name)] = (str(path), reason)
    return found


def _with_masks(center: Center, case: CaseFiles) -> CaseFiles:
    """The case with its masks, or with the problem that one is missing."""
    if case.label is None or case.problem is not None:
        return case
    files: dict[str, list[Path]] = {}
    for path in list_folder(case.label):
        files.setdefault(normal(volume_stem(path) or ""), []).append(path)
    chosen = center.structures or STRUCTURES
    masks, missing = [], []
    for kind, names in chosen.items():
        for name in names:
            own = files.get(name, [])
            if len(own) > 1:
                problem = f"{case.label}: {names_of(own)} are masks of one name; keep one of them"
                return replace(case, problem=problem)
            if own:
                masks.append((kind, own[0]))
            elif kind != "tumor" or center.has_lesions:
                missing.append(name)
    if missing:
        return replace(
            case,
            problem=f"{case.label}: has no mask {', '.join(missing)}; fetch it, name the right "
            "masks by structures (a center without lesions has has_lesions = false), or list "
            f'"{case.case_id}" under exclude',
        )
    return replace(case, masks=tuple(masks))
