"""nnU-Net raw: DatasetXXX_Name/{dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz}."""

from __future__ import annotations

from data.case import Center, DataError, LabelMap
from data.readers.files import CaseFiles, list_volumes, match_by_name, read_json, strip_suffix

CHANNEL = "_0000"  # nnU-Net numbers the channels; a CT has one
LABEL_GEOMETRY = "strict"
NAMES = {
    "background": {"background"},
    "pancreas": {"pancreas", "normal pancreas", "pancreas parenchyma"},
    "tumor": {"tumor", "tumour", "cancer", "lesion", "pancreatic cancer", "pdac", "pda"},
}


def list_cases(center: Center) -> list[CaseFiles]:
    """The training cases, channel 0000 of each. Raises `DataError`."""
    volumes = list_volumes(center.path / "imagesTr")
    images = strip_suffix(volumes, CHANNEL)
    if volumes and not images:
        raise DataError(
            f"{center.path / 'imagesTr'}: no name ends in {CHANNEL} (nnU-Net's channel number); "
            'rename the images or use reader = "folder"'
        )
    return match_by_name(center, images, list_volumes(center.path / "labelsTr"))


def label_map(center: Center) -> LabelMap:
    """The label map of dataset.json (name -> value or values, or nnU-Net 1's value -> name).

    Raises `DataError` where a name is unknown: then the center needs a label_map of its own.
    """
    path = center.path / "dataset.json"
    labels = read_json(path).get("labels")
    if not isinstance(labels, dict):
        raise DataError(f"{path}: has no labels; add them, or a label_map to the center")
    result: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        name, values = (value, key) if str(key).isdigit() else (key, value)
        for ours, names in NAMES.items():
            if str(name).lower().replace("_", " ") in names:
                given = values if isinstance(values, list) else [values]
                result[ours] = result.get(ours, ()) + tuple(int(v) for v in given)
                break
        else:
            raise DataError(
                f"{path}: label name {name!r} is unknown; add to the center a label_map with "
                "background, pancreas and tumor"
            )
    return result
