"""Scans on disk for the tests of predict.py, and what it wrote of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

import predict
from tests._evaluation_fixtures import SPACING, make_volumes
from utils.scripts import run_script


def call_predict(runs: Path, *words: object) -> int:
    """Calls the script on a CPU with these runs; its exit status."""
    argv = ["--checkpoints", str(runs), "--device", "cpu", *map(str, words)]
    try:
        run_script(predict.main, predict.parse(argv))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def make_image(orientation: str = "LPS", degrees: float = 0, seed: int = 3) -> tuple[Any, Any]:
    """An image and its label whose files run in `orientation`, turned about the body's axis."""
    images = []
    turn = np.deg2rad(degrees)
    for array in make_volumes(seed):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin((-31.5, 12.25, -404.75))
        cosine, sine = float(np.cos(turn)), float(np.sin(turn))
        image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
        if not degrees:
            image = sitk.DICOMOrient(image, orientation)
        images.append(image)
    return images[0], images[1]


def write_scan(path: Path, **how: Any) -> sitk.Image:
    """Write a scan; its label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, label = make_image(**how)
    sitk.WriteImage(image, str(path))
    return label


def overlap(path: Path, label: sitk.Image, least_value: int) -> float:
    """Dice of the written mask and the label, voxel by voxel as both files store them."""
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
    wanted = sitk.GetArrayFromImage(label) >= least_value
    return 2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum())


def load_nifti(path: Path) -> Any:
    """As nibabel reads it."""
    return nib.load(path)


def measures_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "measures.json").read_text())
