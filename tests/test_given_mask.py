"""A user's own mask: any orientation, any value, another grid; what is no mask is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import DataError, Grid
from data.readers import load_image
from data.readers.given_mask import read_given_mask
from tests.volumes import SPACING, make_image_hu, to_image, write_volume

SHAPE = (8, 10, 12)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    image = to_image(make_image_hu(shape=SHAPE), orientation="PIR")
    return load_image(write_volume(tmp_path / "ct.nii.gz", image), "ct").grid


def make_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 3:7, 4:9] = 1
    mask[3, 4, 5:7] = 2
    return mask


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "AIL", "PIR"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_a_mask_in_any_orientation_and_type(
    tmp_path: Path, grid: Grid, orientation: str, kind: type
) -> None:
    path = write_volume(
        tmp_path / "m.nii.gz", to_image(make_mask().astype(kind), SPACING, orientation)
    )
    found, notes = read_given_mask(path, grid)
    np.testing.assert_array_equal(found, make_mask() > 0)
    assert notes == ()
    found, _ = read_given_mask(path, grid, 2)
    np.testing.assert_array_equal(found, make_mask() == 2)


def test_a_mask_on_another_grid_is_brought_onto_the_image(tmp_path: Path, grid: Grid) -> None:
    image = to_image(make_mask())
    part = image[2:, 1:, 1:]  # a crop: the same voxels, another origin
    sitk.WriteImage(part, str(tmp_path / "m.nrrd"))
    found, (note,) = read_given_mask(tmp_path / "m.nrrd", grid)
    np.testing.assert_array_equal(found, make_mask() > 0)
    assert "lies on another grid" in note
    part.SetOrigin((900, 900, 900))
    sitk.WriteImage(part, str(tmp_path / "m.nrrd"))
    with pytest.raises(DataError, match="lies wholly outside its image"):
        read_given_mask(tmp_path / "m.nrrd", grid)


@pytest.mark.parametrize(
    ("values", "value", "cause"),
    [
        (np.zeros(SHAPE, np.uint8), None, "is empty"),
        (make_mask(), 5, r"does not hold the value 5 \(it holds 0, 1, 2\)"),
        (make_mask() * np.float32(0.3), None, "a mask must hold integers, but 80 voxels do not"),
        (make_image_hu(shape=SHAPE), None, "is it an image, or a label map of many organs"),
        (np.arange(960).reshape(SHAPE).astype(np.int16), None, "Say which value is the pancreas"),
    ],
)
def test_what_is_no_mask_is_refused(
    tmp_path: Path, grid: Grid, values: np.ndarray, value: int | None, cause: str
) -> None:
    path = write_volume(tmp_path / "m.nrrd", values)
    with pytest.raises(DataError, match=cause):
        read_given_mask(path, grid, value)


def test_of_many_organs_one_is_taken(tmp_path: Path, grid: Grid) -> None:
    organs = np.arange(960).reshape(SHAPE).astype(np.int16) // 8
    path = write_volume(tmp_path / "m.nrrd", organs)
    found, _ = read_given_mask(path, grid, 7)
    np.testing.assert_array_equal(found, organs == 7)
