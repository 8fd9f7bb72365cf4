"""Irregular DICOM on a rectangular grid: what was at a place in the world stays there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Case, DataError
from data.readers import load_image
from data.readers.repair import REPAIRED, even_depths, to_rectangular
from data.readers.volume import canonical_matrix

SHAPE, PIXEL, STEP = (14, 20, 18), (0.9, 0.7), 2.5  # voxels (z, y, x); mm (y, x); mm between slices


def ramp(world: np.ndarray) -> np.ndarray:
    """HU that rise linearly in every direction, so that linear resampling keeps them; (..., 3)."""
    return 3 * world[..., 0] - 2 * world[..., 1] + 4 * world[..., 2] + 300


def write_ramp(folder: Path, shift: Callable[[float], float], depths: list[float]) -> None:
    """A series of `ramp`, its slices at these depths, mm, and shifted to the back by `shift`."""
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    y, x = np.meshgrid(*(np.arange(n) for n in SHAPE[1:]), indexing="ij")
    for number, depth in enumerate(depths):
        corner = np.array([-10.0, -20.0 + shift(depth), -60.0 + depth])
        world = np.stack([x * PIXEL[1], y * PIXEL[0], 0 * x], axis=-1) + corner
        image = sitk.GetImageFromArray(np.rint(ramp(world)).astype(np.int16))
        image.SetSpacing(PIXEL[::-1])
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0008|0018": f"1.2.3.4.{number + 1}",
            "0020|0032": "\\".join(f"{mm:.6f}" for mm in corner),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number:03d}.dcm"))
        writer.Execute(image)


def error_inside(case: Case) -> float:
    """The largest difference to the ramp, HU, where slices were: two voxels inside of padding."""
    z, y, x = np.indices(case.image_hu.shape)
    world = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ canonical_matrix(case.grid).T
    filled = case.image_hu > case.image_hu.min() + 1
    inside = filled & np.roll(filled, 2, 1) & np.roll(filled, -2, 1)
    assert inside.sum() > filled.size / 3
    return float(np.abs(case.image_hu - ramp(world[..., :3]))[inside].max())


@pytest.mark.parametrize("degrees", [-20, -5, 12, 25])
def test_a_tilted_series_is_straightened(tmp_path: Path, degrees: float) -> None:
    slope = np.tan(np.deg2rad(degrees))
    depths = [STEP * z for z in range(SHAPE[0])]
    write_ramp(tmp_path / "a", lambda mm: slope * mm, depths)
    with pytest.raises(DataError, match="gantry was tilted"):
        load_image(tmp_path / "a", "a")
    case = load_image(tmp_path / "a", "a", repair=True)
    assert case.notes == (
        f"{REPAIRED}: the gantry was tilted by {abs(degrees):.1f} degrees, slices are sheared",
    )
    more = abs(slope) * depths[-1] / PIXEL[0]
    assert case.image_hu.shape == (SHAPE[0], SHAPE[1] + int(np.ceil(more)), SHAPE[2])
    assert case.grid.spacing_xyz == pytest.approx((*PIXEL[::-1], STEP))
    assert case.grid.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert error_inside(case) <= 1.5  # two roundings to whole HU


@pytest.mark.parametrize(
    ("depths", "count"),
    [
        ([STEP * z for z in range(14) if z not in (5, 6)], 14),  # two are missing
        ([0, 2.5, 5, 7.5, 10, 13, 16, 19, 21.5, 24], 11),  # thicker in the middle
    ],
)
def test_uneven_slices_become_even(tmp_path: Path, depths: list[float], count: int) -> None:
    write_ramp(tmp_path / "a", lambda mm: 0, depths)
    with pytest.raises(DataError, match="mm apart, the others"):
        load_image(tmp_path / "a", "a")
    case = load_image(tmp_path / "a", "a", repair=True)
    assert case.image_hu.shape == (count, *SHAPE[1:])
    assert case.grid.spacing_xyz[2] == pytest.approx(depths[-1] / (count - 1))
    assert error_inside(case) <= 1.5
    (note,) = case.notes
    assert note.startswith(f"{REPAIRED}: slices ")


def test_both_at_once_are_repaired_and_told(tmp_path: Path) -> None:
    write_ramp(tmp_path / "a", lambda mm: 0.2 * mm, [STEP * z for z in range(14) if z != 4])
    case = load_image(tmp_path / "a", "a", repair=True)
    assert len(case.notes) == 2
    assert error_inside(case) <= 1.5


def test_a_regular_series_is_not_touched(tmp_path: Path) -> None:
    write_ramp(tmp_path / "a", lambda mm: 0, [STEP * z for z in range(14)])
    plain, repaired = (load_image(tmp_path / "a", "a", repair=repair) for repair in (False, True))
    np.testing.assert_array_equal(plain.image_hu, repaired.image_hu)
    assert repaired.notes == ()


@pytest.mark.parametrize(
    ("shift", "depths", "cause"),
    [
        (lambda mm: 0, [0, 2.5, 5, 30, 32.5], "nothing was measured over 25 mm"),
        (lambda mm: 5 if mm == 10 else 0, [STEP * z for z in range(14)], "shifted sideways"),
        (lambda mm: 0, [0, 2.5, 5, 5, 7.5], "at one position: one is a duplicate"),
    ],
)
def test_what_cannot_be_repaired_is_refused_all_the_same(
    tmp_path: Path, shift: Callable[[float], float], depths: list[float], cause: str
) -> None:
    write_ramp(tmp_path / "a", shift, depths)
    with pytest.raises(DataError, match=cause):
        load_image(tmp_path / "a", "a", repair=True)


def test_slices_that_lie_well_keep_every_value() -> None:
    planes = np.random.default_rng(0).integers(-900, 900, (3, 4, 5)).astype(np.int16)
    along = np.array([0.0, 2.0, 6.0])
    depths = even_depths(along, 2.0)
    assert depths.tolist() == [0, 2, 4, 6]
    shifts = np.array([[0, 0], [1, 0], [2, -3]])
    volume, first = to_rectangular(planes, along, shifts, depths)
    assert volume.dtype == np.int16
    assert first == (0, -3)
    np.testing.assert_array_equal(volume[0, :4, 3:], planes[0])
    np.testing.assert_array_equal(volume[1, 1:5, 3:], planes[1])
    np.testing.assert_array_equal(volume[3, 2:, :5], planes[2])
    assert (volume[0, 4:] == planes.min()).all()
