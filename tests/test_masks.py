"""Volumes written on the grid of an image: values, type, and what their headers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Grid
from data.readers.masks import write_mask, write_volume

ABOUT = {"descrip": "research use only", "software": "x 1.0"}
SHEARED = (1.0, 0.002, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
STRAIGHT = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def read(path: Path) -> Any:
    return nib.load(path)


@pytest.mark.parametrize("direction", [STRAIGHT, SHEARED])
def test_a_nifti_has_the_text_and_the_type(tmp_path: Path, direction: tuple[float, ...]) -> None:
    grid = Grid((5, 4, 3), (0.7, 0.9, 2.5), (1.0, 2.0, 3.0), direction)
    shape = (4, 5, 3) if direction == STRAIGHT else (3, 4, 5)  # turned: (y, x, z) of the file
    values = np.random.default_rng(0).random(shape, np.float32)
    write_volume(tmp_path / "p.nii.gz", values, grid, ABOUT)
    write_mask(tmp_path / "m.nii.gz", values > 0.5, grid, ABOUT)
    for name, kind in (("p", np.float32), ("m", np.uint8)):
        file = read(tmp_path / f"{name}.nii.gz")
        assert bytes(file.header["descrip"].item()) == b"research use only"
        assert file.get_data_dtype() == kind
    prob, mask = (np.asarray(read(tmp_path / f"{name}.nii.gz").dataobj) for name in "pm")
    np.testing.assert_array_equal(mask > 0, prob > 0.5)
    assert sorted(prob.ravel()) == sorted(values.ravel())


def test_an_nrrd_has_every_key(tmp_path: Path) -> None:
    grid = Grid((5, 4, 3), (0.7, 0.9, 2.5), (1.0, 2.0, 3.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    write_volume(tmp_path / "v.nrrd", values, grid, ABOUT)
    image = sitk.ReadImage(str(tmp_path / "v.nrrd"))
    assert {key: image.GetMetaData(key) for key in ABOUT} == ABOUT
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
    assert [path.name for path in tmp_path.iterdir()] == ["v.nrrd"]
    with pytest.raises(ValueError, match="mask is"):
        write_volume(tmp_path / "v.nrrd", values[1:], grid)
