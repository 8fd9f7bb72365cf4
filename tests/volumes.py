"""Small volume files for the tests of readers, cache and check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.case import Case
from data.centers import Center
from data.readers import list_cases, load_case

SPACING = (2.9, 1.3, 0.7)  # mm, (z, y, x): three different, none of them round
ORIGIN_XYZ = (-31.7, 12.3, -404.9)


def make_image_hu(seed: int = 0, shape: tuple[int, int, int] = (5, 6, 7)) -> np.ndarray:
    """int16 HU (z, y, x), every voxel another value."""
    rng = np.random.default_rng(seed)
    values = rng.choice(np.arange(-900, 900), size=int(np.prod(shape)), replace=False)
    return values.reshape(shape).astype(np.int16)


def make_label(shape: tuple[int, int, int] = (5, 6, 7)) -> np.ndarray:
    """uint8 (z, y, x): a pancreas that is not symmetric, with a tumor of two voxels."""
    label = np.zeros(shape, np.uint8)
    label[1:4, 2:5, 1:6] = 1
    label[1, 2, 1] = 0
    label[2, 3, 4:6] = 2
    return label


def to_image(
    array: np.ndarray, spacing: tuple[float, float, float] = SPACING, orientation: str = "LPS"
) -> sitk.Image:
    """A canonical array as an image whose file runs in `orientation`."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(ORIGIN_XYZ)
    return sitk.DICOMOrient(image, orientation)


def write_volume(path: Path, image: sitk.Image | np.ndarray) -> Path:
    """Write an image, or a canonical array, compressed; make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = to_image(image) if isinstance(image, np.ndarray) else image
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def folder_center(tmp_path: Path, **keys: object) -> Center:
    return Center("C", "folder", tmp_path, **keys)  # type: ignore[arg-type]


def load_pair(
    tmp_path: Path, image: sitk.Image | np.ndarray, label: sitk.Image | np.ndarray, **keys: object
) -> Case:
    """Write one image and its label as NRRD and read them as a case."""
    write_volume(tmp_path / "images" / "a.nrrd", image)
    write_volume(tmp_path / "labels" / "a.nrrd", label)
    center = folder_center(tmp_path, **keys)
    return load_case(center, list_cases(center)[0])
