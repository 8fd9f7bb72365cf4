"""DICOM SEG as labels: known voxels, whatever the direction and the grid; refusals by cause."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import DataError, Grid
from data.readers import list_cases, load_image, load_label
from data.readers.masks import write_volume
from tests.dicom_files import AXES, ORIGIN, SPACING, stored_values, write_series
from tests.dicom_labels import SHAPE, STRUCTURES, case_of, halves, label_of, write_pair, write_seg
from tests.volumes import folder_center


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_a_segmentation_lies_on_its_image_whatever_the_direction(
    tmp_path: Path, axes: np.ndarray
) -> None:
    center = write_pair(tmp_path, axes, order=(3, 0, 4, 1, 2))
    case = case_of(center)
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))
    assert case.notes == ()
    (files,) = list_cases(center)
    again = load_label(center, files, case.grid)
    assert again is not None
    np.testing.assert_array_equal(again, case.label)


def test_a_segmentation_lies_on_the_converted_image_too(tmp_path: Path) -> None:
    center = write_pair(tmp_path, AXES["feet first, supine"])
    case = load_image(tmp_path / "images" / "P1", "P1")
    write_volume(tmp_path / "nifti" / "P1.nrrd", case.image_hu, case.grid)
    image = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "nifti" / "P1.nrrd")), "SAR")
    sitk.WriteImage(image, str(tmp_path / "nifti" / "P1.nii.gz"))
    (tmp_path / "nifti" / "P1.nrrd").unlink()
    converted = case_of(folder_center(tmp_path, images="nifti"))
    assert converted.label is not None
    np.testing.assert_array_equal(converted.label, label_of(converted))
    assert center.images is None


def test_slices_that_drift_as_the_reader_allows_keep_their_label(tmp_path: Path) -> None:
    stored = stored_values(0, (20, 6, 7))
    case = case_of(write_pair(tmp_path, stored=stored, tilt_mm=0.04))  # 0.9 degrees, a voxel in all
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))
    assert "gantry was tilted by 0.92 degrees" in case.notes[0]


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_are_chosen_by_name(tmp_path: Path, kind: str) -> None:
    files = write_series(tmp_path / "images" / "P1", stored_values())
    write_seg(tmp_path / "labels" / "P1.dcm", halves(), files, kind)
    case = case_of(folder_center(tmp_path, structures=STRUCTURES))
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))
    assert any("fractional" in note for note in case.notes) == (kind == "FRACTIONAL")


def test_segments_are_chosen_by_number(tmp_path: Path) -> None:
    files = write_series(tmp_path / "images" / "P1", stored_values())
    write_seg(tmp_path / "labels" / "P1.dcm", halves(), files)
    numbers = {"background": (3,), "pancreas": (1,), "tumor": (2,)}
    case = case_of(folder_center(tmp_path, label_map=numbers))
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))
    with pytest.raises(DataError, match="segment 3 'Liver' is unknown"):
        case_of(folder_center(tmp_path, label_map={"pancreas": (1,), "tumor": (2,)}))


def test_the_tumor_wins_where_segments_overlap(tmp_path: Path) -> None:
    files = write_series(tmp_path / "images" / "P1", stored_values())
    masks = halves()
    masks["Organ"] |= masks["Mass"]
    reordered = {name: masks[name] for name in ("Mass", "Organ")}
    write_seg(tmp_path / "labels" / "P1.dcm", reordered, files)
    case = case_of(folder_center(tmp_path, structures=STRUCTURES))
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "segment 1 'Organ' is unknown .* name those of the pancreas and the tumor"),
        ({"structures": {"pancreas": ("head",)}}, "no segment 'head' for the pancreas, but 1 'Or"),
        ({"structures": {"pancreas": ("Organ",), "tumor": ("X", "Y")}}, "no segment 'X' or 'Y'"),
        ({"structures": STRUCTURES, "label_geometry": "image"}, 'take label_geometry = "image"'),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(
    tmp_path: Path, keys: dict[str, object], says: str
) -> None:
    files = write_series(tmp_path / "images" / "P1", stored_values())
    write_seg(tmp_path / "labels" / "P1.dcm", halves(), files)
    with pytest.raises(DataError, match=says):
        case_of(folder_center(tmp_path, **keys))


def test_a_center_without_lesions_needs_no_tumor_segment(tmp_path: Path) -> None:
    files = write_series(tmp_path / "images" / "P1", stored_values())
    write_seg(tmp_path / "labels" / "P1.dcm", {"Organ": stored_values() > 0}, files)
    case = case_of(folder_center(tmp_path, structures=STRUCTURES, has_lesions=False))
    assert case.label is not None
    np.testing.assert_array_equal(case.label, case.image_hu > 0)


def own_grid(shift_voxels: float, step: float = SPACING[0]) -> Grid:
    """Larger than the image by a voxel on each side in plane, and shifted along x."""
    x, y, z = ORIGIN
    origin = (x + (shift_voxels - 1) * SPACING[2], y - SPACING[1], z)
    direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return Grid((9, 8, 5), (SPACING[2], SPACING[1], step), origin, direction)


def padded() -> dict[str, np.ndarray]:
    margins = ((0, 0), (1, 1), (1, 1))
    return {name: np.pad(mask, margins) for name, mask in halves().items()}


def test_a_segmentation_with_margins_is_placed_by_position(tmp_path: Path) -> None:
    files = write_series(tmp_path / "images" / "P1", stored_values())
    write_seg(tmp_path / "labels" / "P1.dcm", padded(), files, grid=own_grid(0))
    case = case_of(folder_center(tmp_path, structures=STRUCTURES))
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))


@pytest.mark.parametrize(
    ("shift", "step", "says"),
    [
        (0.5, 2.5, "lies between the image's voxels"),
        (0.0, 1.25, "frames are 1.25 mm apart, the image's slices 2.5 mm"),
        (0.0, 5.0, "frames are 5 mm apart"),
        (2.0, 2.5, "lies partly outside its image"),
    ],
)
def test_a_segmentation_of_another_grid_is_refused_unless_resampled(
    tmp_path: Path, shift: float, step: float, says: str
) -> None:
    files = write_series(tmp_path / "images" / "P1", stored_values())
    write_seg(tmp_path / "labels" / "P1.dcm", padded(), files, grid=own_grid(shift, step))
    with pytest.raises(DataError, match=says):
        case_of(folder_center(tmp_path, structures=STRUCTURES))
    keys = {"structures": STRUCTURES, "label_geometry": "resample"}
    case = case_of(folder_center(tmp_path, **keys))
    assert case.label is not None
    expected = np.zeros(SHAPE, np.uint8)
    values = np.pad(label_of(case), ((0, 0), (1, 1), (1, 1)))
    for z, y, x in np.ndindex(*SHAPE):
        place = np.array([z * 2.5 / step, y + 1, x + 1 - shift])
        nearest = np.floor(place + 0.5).astype(int)
        if (nearest >= 0).all() and (nearest < values.shape).all():
            expected[z, y, x] = values[tuple(nearest)]
    if shift == 0.5:  # exactly between two voxels either is the nearest
        other = np.pad(label_of(case), ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
        assert ((case.label == expected) | (case.label == other)).all()
    else:
        np.testing.assert_array_equal(case.label, expected)


def test_an_object_of_another_scan_is_refused_and_of_another_series_noted(tmp_path: Path) -> None:
    center = write_pair(tmp_path)
    shutil.rmtree(tmp_path / "images" / "P1")
    changed = {"SeriesInstanceUID": "1.2.77"}
    write_series(tmp_path / "images" / "P1", stored_values(), changed=changed)
    with pytest.warns(UserWarning, match=r"refers to series .* is it that of another phase"):
        case_of(center)
    shutil.rmtree(tmp_path / "images" / "P1")
    changed = {"FrameOfReferenceUID": "1.2.78"}
    write_series(tmp_path / "images" / "P1", stored_values(), changed=changed)
    with pytest.raises(DataError, match="lies in another frame of reference"):
        case_of(center)
