"""PANORAMA: <patient>_<study>_0000.nii.gz in any subfolders, labels <patient>_<study>.nii.gz."""

from __future__ import annotations

from pathlib import Path

from data.case import Center, DataError
from data.readers.listing import Found, Listing, normal, pair, scan_below

# 1 PDAC lesion, 2 veins, 3 arteries, 4 pancreas parenchyma, 5 pancreatic duct, 6 common bile duct
LABEL_MAP = {"background": (0, 2, 3, 6), "pancreas": (1, 4, 5), "tumor": (1,)}
LABEL_GEOMETRY = "strict"
CHANNEL = "_0000"
PATIENT_PATTERN = r"^([^_]+)_"


def list_center(center: Center) -> Listing:
    """Every image whose name ends in _0000, below `images` or anywhere; labels likewise.

    Where a case has a manual and an automatic label (folders of those names), the manual one
    counts. Images without a label and labels without an image are left out, each by name: the two
    are published apart, images in four batches. Raises `DataError`.
    """
    label_folder = center.path / (center.labels or ".")
    images = _split(scan_below(center.path / (center.images or ".")))[0]
    labels = _split(scan_below(label_folder))[1]
    if not images.paths:
        raise DataError(f"{center.path}: no image <id>{CHANNEL}.nii.gz in it; correct the path")
    known = (images.paths.keys() | images.problems.keys(), labels.paths.keys())
    listing = Listing(images.count, labels.count, ())
    excluded = set(map(normal, center.exclude))
    alone = []
    for case_id in sorted(known[0] - known[1] - labels.problems.keys() - excluded):
        path = images.paths.pop(case_id, [center.path / case_id])[0]
        images.problems.pop(case_id, None)
        alone.append((str(path), "has no label; fetch panorama_labels again if it should have one"))
    for case_id in sorted(known[1] - known[0] - excluded):
        path = labels.paths.pop(case_id)[0]
        alone.append((str(path), f"is the label of an image {case_id}{CHANNEL} that is not there"))
    labels.paths = {name: _prefer_manual(own, label_folder) for name, own in labels.paths.items()}
    paired = pair(center, images, labels)
    return Listing(listing.images, listing.labels, paired.cases, (*paired.left_out, *alone))


def _split(found: Found) -> tuple[Found, Found]:
    """Images, whose names end in the channel number, and labels."""
    images, labels = Found(), Found(left_out=found.left_out)
    images.spelled = {
        n.removesuffix(CHANNEL): s.removesuffix(CHANNEL) for n, s in found.spelled.items()
    }
    for source, own in ((found.paths, "paths"), (found.problems, "problems")):
        for name, content in source.items():
            target = getattr(images if name.endswith(CHANNEL) else labels, own)
            target[name.removesuffix(CHANNEL)] = content
    return images, labels


def _prefer_manual(paths: list[Path], below: Path) -> list[Path]:
    """The paths in a folder called manual_labels or the like, if any, else all of them."""
    manual = [
        path
        for path in paths
        if any("manual" in part.lower() for part in path.relative_to(below).parts[-3:-1])
    ]
    return manual if manual else paths
