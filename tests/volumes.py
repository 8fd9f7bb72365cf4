"""Small volume files for the tests of readers, cache and check."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.case import Case, Center
from data.readers import list_cases, load_case

SPACING = (2.9, 1.3, 0.7)  # mm, (z, y, x): three different, none of them round
ORIGIN_XYZ = (-31.7, 12.3, -404.9)
ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(("RL", "AP", "IS"))
    for letters in itertools.product(*pairs)
]


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


BLOB_SHAPE, BLOB_SPACING = (12, 20, 24), (3.0, 1.1, 0.9)


def make_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A blob with noise of its own, and a label with pancreas and tumor."""
    rng = np.random.default_rng(seed)
    image_hu = rng.normal(0, 60, BLOB_SHAPE)
    image_hu[3:9, 5:15, 4:18] += 200
    label = np.zeros(BLOB_SHAPE, np.uint8)
    label[3:9, 5:15, 4:18] = 1
    label[4:7, 6:10, 5:11] = 2
    return np.rint(image_hu).astype(np.int16), label


def make_center(tmp_path: Path, name: str, seeds: tuple[int, ...], **keys: object) -> Center:
    """A folder center with one case per seed, in another orientation each."""
    for seed in seeds:
        image_hu, label = make_pair(seed)
        orientation = ("LPS", "RAS", "SPL", "AIR")[seed % 4]
        folder = tmp_path / name
        write_volume(
            folder / "images" / f"case_{seed}.nii.gz", to_image(image_hu, BLOB_SPACING, orientation)
        )
        write_volume(folder / "labels" / f"case_{seed}.nii.gz", to_image(label, BLOB_SPACING))
    return Center(name, "folder", tmp_path / name, **keys)  # type: ignore[arg-type]


def write_dicom(
    folder: Path,
    image_hu: np.ndarray,
    leave_out: tuple[int, ...] = (),
    changed: Mapping[str, str] | None = None,
) -> None:
    """One axial CT series as a scanner writes it, files named against the slice order.

    `changed`: tags that differ from the usual ones.
    """
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(image_hu.shape[0]):
        if z in leave_out:
            continue
        image = sitk.GetImageFromArray(image_hu[z])
        image.SetSpacing((0.7, 0.7))
        tags = {
            "0008|0060": "CT",
            "0008|0070": "SIEMENS",
            "0018|0050": "2.5",
            "0018|0060": "120",
            "0018|1151": str(200 + 10 * z),
            "0018|9311": "0.9",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0008|0018": f"1.2.3.4.{z + 1}",
            "0020|0013": str(image_hu.shape[0] - z),
            "0020|0032": f"-10\\-20\\{-300 + 2.5 * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in (tags | dict(changed or {})).items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{image_hu.shape[0] - z:06d}.dcm"))
        writer.Execute(image)
