"""Medical Segmentation Decathlon: dataset.json, imagesTr/NAME.nii.gz, labelsTr/NAME.nii.gz."""

from __future__ import annotations

from data.case import Center
from data.readers.listing import Listing, pair, scan_files

LABEL_MAP = {"background": (0,), "pancreas": (1,), "tumor": (2,)}
LABEL_GEOMETRY = "strict"


def list_center(center: Center) -> Listing:
    """The training cases (imagesTs has no labels and is not looked at). Raises `DataError`.

    Files are paired by name; dataset.json is not needed, since lists in it have been seen to
    disagree with the folders.
    """
    return pair(center, scan_files(center.path / "imagesTr"), scan_files(center.path / "labelsTr"))
