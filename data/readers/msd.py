"""Medical Segmentation Decathlon: dataset.json, imagesTr/NAME.nii.gz, labelsTr/NAME.nii.gz."""

from __future__ import annotations

from data.case import Center
from data.readers.files import CaseFiles, list_volumes, match_by_name

LABEL_MAP = {"background": (0,), "pancreas": (1,), "tumor": (2,)}
LABEL_GEOMETRY = "strict"


def list_cases(center: Center) -> list[CaseFiles]:
    """The training cases (imagesTs has no labels and is left alone). Raises `DataError`.

    Files are paired by name; dataset.json is not needed, since lists in it have been seen to
    disagree with the folders.
    """
    images = list_volumes(center.path / "imagesTr")
    labels = list_volumes(center.path / "labelsTr")
    return match_by_name(center, images, labels)
