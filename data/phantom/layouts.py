"""How a synthetic center lies on the disk: the layouts of real data sets, written atomically.

A file is written under a temporary name and renamed when it is whole. Bytes depend on the case
only: gzip headers carry neither time nor name.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.phantom.generate import Phantom
from data.readers.masks import write_whole
from utils.files import write_atomic, write_text
from utils.leftovers import unfinished_path

if TYPE_CHECKING:
    import SimpleITK as sitk

GZIP_LEVEL = 1  # noise hardly compresses: higher levels cost time only


@dataclass(frozen=True)
class Layout:
    """Where a case's files go, what describes the data set, and its keys in centers.toml."""

    files: Callable[[Path, str, int], tuple[Path, Path]]  # folder, center, case number from 1
    describe: Callable[[Path, str, bool], None]  # folder, center, whether it has lesions
    keys: Callable[[str, bool], dict[str, object]]  # center, whether it has lesions


def to_disk_axes(array: np.ndarray, phantom: Phantom, orientation: str) -> sitk.Image:
    """(z, y, x) in LPS to a SimpleITK image whose axes run as `orientation` says ("RAS")."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(phantom.spacing[::-1])
    image.SetOrigin(phantom.origin[::-1])
    return sitk.DICOMOrient(image, orientation)


def write_volume(image: sitk.Image, path: Path) -> None:
    """Write .nii.gz or .nrrd; the file appears at once or not at all."""
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    if suffix == ".nii.gz":
        content = gzip.compress(_nifti_bytes(image), GZIP_LEVEL, mtime=0)
        write_atomic(path, lambda stream: stream.write(content))
        return
    partial = unfinished_path(path, suffix)
    try:
        write_whole(
            partial,
            lambda: sitk.WriteImage(
                image, str(partial), useCompression=True, compressionLevel=GZIP_LEVEL
            ),
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _nifti_bytes(image: sitk.Image) -> bytes:
    import nibabel as nib
    import SimpleITK as sitk

    affine = np.eye(4)
    cosines = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = cosines * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1  # ITK's world is LPS, NIfTI's is RAS
    voxels = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    nifti = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    nifti.header.set_xyzt_units("mm")
    nifti.set_sform(affine, 1)
    nifti.set_qform(affine, 1)
    return nifti.to_bytes()


def _json(path: Path, content: dict[str, object]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def _describe_msd(folder: Path, center: str, has_lesions: bool) -> None:
    cases = sorted(p.name for p in (folder / "labelsTr").glob("pancreas_*.nii.gz"))
    labels = {"0": "background", "1": "pancreas"} | ({"2": "cancer"} if has_lesions else {})
    training = [{"image": f"./imagesTr/{c}", "label": f"./labelsTr/{c}"} for c in cases]
    content: dict[str, object] = {
        "name": center,
        "description": "Synthetic CT phantoms",
        "licence": "Apache-2.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": labels,
        "numTraining": len(cases),
        "numTest": 0,
        "training": training,
        "test": [],
    }
    _json(folder / "dataset.json", content)


def _nnunet_name(center: str) -> str:
    return f"Dataset901_{center.replace('-', '')}"


def _describe_nnunet(folder: Path, center: str, has_lesions: bool) -> None:
    root = folder / _nnunet_name(center)
    labels = {"background": 0, "pancreas": 1} | ({"lesion": 2} if has_lesions else {})
    content: dict[str, object] = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": len(list((root / "labelsTr").glob("[!.]*.nii.gz"))),
        "file_ending": ".nii.gz",
        "name": center,
        "description": "Synthetic CT phantoms",
    }
    _json(root / "dataset.json", content)


def _folder(suffix: str) -> Layout:
    def keys(center: str, has_lesions: bool) -> dict[str, object]:
        label_map = {"background": 0, "pancreas": 1} | ({"tumor": 2} if has_lesions else {})
        return {
            "reader": "folder",
            "path": center,
            "images": "images",
            "labels": "labels",
            "label_map": label_map,
        }

    def files(folder: Path, center: str, number: int) -> tuple[Path, Path]:
        name = f"{center}_{number:03d}{suffix}"
        return folder / "images" / name, folder / "labels" / name

    return Layout(files, lambda folder, center, has_lesions: None, keys)


LAYOUTS = {
    "msd": Layout(
        lambda folder, center, n: (
            folder / "imagesTr" / f"pancreas_{n:03d}.nii.gz",
            folder / "labelsTr" / f"pancreas_{n:03d}.nii.gz",
        ),
        _describe_msd,
        lambda center, has_lesions: {"reader": "msd", "path": center},
    ),
    "nnunet_raw": Layout(
        lambda folder, center, n: (
            folder / _nnunet_name(center) / "imagesTr" / f"{center}_{n:03d}_0000.nii.gz",
            folder / _nnunet_name(center) / "labelsTr" / f"{center}_{n:03d}.nii.gz",
        ),
        _describe_nnunet,
        lambda center, has_lesions: {
            "reader": "nnunet_raw",
            "path": f"{center}/{_nnunet_name(center)}",
        },
    ),
    "folder_nifti": _folder(".nii.gz"),
    "folder_nrrd": _folder(".nrrd"),
}
