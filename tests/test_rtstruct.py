"""DICOM structure sets as labels: contours filled onto known voxels; refusals by cause."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.draw import polygon2mask

from data.case import Case, DataError
from data.readers.rtstruct import fill_polygon
from tests.dicom_files import AXES, Loop, box, stored_values, write_series, write_structure_set
from tests.dicom_labels import SHAPE, case_of, label_of
from tests.volumes import folder_center


def drawn(
    tmp_path: Path, regions: Mapping[str, list[Loop]], **keys: Any
) -> tuple[Case, np.ndarray]:
    """The case, and its label in the order of the series."""
    files = write_series(tmp_path / "images" / "P1", stored_values())
    write_structure_set(tmp_path / "labels" / "P1.dcm", regions)
    case = case_of(folder_center(tmp_path, **keys))
    assert case.label is not None
    assert len(files) == SHAPE[0]
    return case, case.label  # head first and supine: the series is canonical


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_contours_are_filled_whatever_the_direction(tmp_path: Path, axes: np.ndarray) -> None:
    stored = np.zeros(SHAPE, np.int16)
    stored[1:4, 1:5, 2:6] = 100
    stored[2, 2:4, 3:5] = 300
    stored[0, 0, :3] = -50  # not symmetric
    write_series(tmp_path / "images" / "P1", stored, axes, order=(3, 0, 4, 1, 2))
    regions = {
        "Pancreas": [box(z, (1, 5), (2, 6)) for z in (1, 2, 3)],
        "Tumor": [box(2, (2, 4), (3, 5))],
    }
    write_structure_set(tmp_path / "labels" / "P1" / "study" / "rt", regions, axes)
    case = case_of(folder_center(tmp_path))
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))


def test_holes_islands_and_slits(tmp_path: Path) -> None:
    keyhole = [
        (0, 0),
        (0, 6),
        (5, 6),
        (5, 0),
        (2, 0),
        (2, 2),
        (4, 2),
        (4, 4),
        (2, 4),
        (2, 2),
        (2, 0),
    ]
    regions = {
        "Pancreas": [
            box(0, (2, 4), (2, 5)),  # a hole, given before what it is in
            box(0, (0, 6), (0, 7)),
            box(0, (3, 4), (3, 4)),  # an island in the hole
            box(1, (0, 2), (0, 2)),  # apart
            box(1, (4, 6), (5, 7)),
            box(1, (4, 6), (5, 7)),  # drawn twice
            box(2, (0, 3), (0, 4)),  # overlapping
            box(2, (1, 5), (2, 6)),
            ("CLOSED_PLANAR", 4, [(r - 0.5, c - 0.5) for r, c in keyhole]),
        ]
    }
    case, label = drawn(tmp_path, regions)
    expected = np.zeros(SHAPE, np.uint8)
    expected[0] = 1
    expected[0, 2:4, 2:5] = 0
    expected[0, 3, 3] = 1
    expected[1, :2, :2] = expected[1, 4:, 5:] = 1
    expected[2, :3, :4] = expected[2, 1:5, 2:6] = 1
    expected[4, :5, :6] = 1
    expected[4, 2:4, 2:4] = 0
    np.testing.assert_array_equal(label, expected)
    assert case.notes == ("region 1 'Pancreas': 1 contours lie inside another one, read as holes",)


def test_contours_of_the_xor_type_are_combined_by_exclusive_or(tmp_path: Path) -> None:
    kind = "CLOSEDPLANAR_XOR"
    loops = [box(1, (0, 4), (0, 5), kind), box(1, (2, 6), (3, 7), kind)]
    case, label = drawn(tmp_path, {"Pancreas": loops})
    expected = np.zeros(SHAPE, bool)
    expected[1, :4, :5] ^= True
    expected[1, 2:6, 3:7] ^= True
    np.testing.assert_array_equal(label, expected)
    assert case.notes == ()


def test_slices_without_contours_in_between_are_told(tmp_path: Path) -> None:
    case, label = drawn(tmp_path, {"Pancreas": [box(z, (1, 3), (1, 3)) for z in (0, 2, 4)]})
    assert [bool(plane.any()) for plane in label] == [True, False, True, False, True]
    assert "no two neighboring slices have contours (every 2. slice)" in case.notes[0]


@pytest.mark.parametrize(
    ("loops", "says"),
    [
        ([box(1.48, (1, 3), (1, 3))], "between two slices of the image"),
        ([box(1, (1, 9), (1, 3))], "lies partly outside its image"),
        ([box(7, (1, 3), (1, 3))], "lies partly outside its image"),
        ([box(1, (1, 3), (1, 3), "OPEN_PLANAR")], "no closed contour, but OPEN_PLANAR"),
        ([], "has no closed contour; correct"),
    ],
)
def test_contours_that_cannot_be_filled_are_refused(
    tmp_path: Path, loops: list[Loop], says: str
) -> None:
    with pytest.raises(DataError, match=f"C/P1: .*region 1 'Pancreas' .*{says}"):
        drawn(tmp_path, {"Pancreas": loops})


def test_contours_across_the_slices_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "images" / "P1", stored_values())
    loops = [box(2, (1, 3), (1, 3))]
    write_structure_set(tmp_path / "labels" / "P1.dcm", {"Pancreas": loops}, AXES["oblique"])
    with pytest.raises(DataError, match=r"do not lie in the image's slices|between two slices"):
        case_of(folder_center(tmp_path))
    write_structure_set(tmp_path / "labels" / "P1.dcm", {"Pancreas": loops}, frame="1.2.99")
    with pytest.raises(DataError, match="another frame of reference"):
        case_of(folder_center(tmp_path))


def test_polygons_are_filled_as_another_library_does() -> None:
    rng = np.random.default_rng(0)
    for count in (3, 4, 9):
        for _ in range(20):
            angles = np.sort(rng.uniform(0, 2 * np.pi, count))
            radii = rng.uniform(3, 14, count)
            points = np.stack([15.3 + radii * np.sin(angles), 14.2 + radii * np.cos(angles)], 1)
            filled = fill_polygon(points, (30, 31))
            np.testing.assert_array_equal(filled, polygon2mask((30, 31), points))
