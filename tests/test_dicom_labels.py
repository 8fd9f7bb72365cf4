"""DICOM SEG and RTSTRUCT as labels: known voxels, whatever the direction; refusals by cause."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from skimage.draw import polygon2mask

from data.case import Case, Center, DataError, Grid
from data.centers import load_centers
from data.prepare.cache import reading_rule
from data.readers import list_cases, list_center, load_case, load_image, load_label
from data.readers.masks import write_array
from data.readers.rtstruct import fill_polygon
from data.readers.series import slice_folders
from engine.dicom_seg import Producer, write_dicom_seg
from tests.dicom_files import (
    AXES,
    FRAME,
    ORIGIN,
    SPACING,
    Loop,
    stored_values,
    write_series,
    write_structure_set,
)
from tests.volumes import folder_center

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom", reason="highdicom is not installed (requirements-dicom.txt)")

SHAPE = (5, 6, 7)
PRODUCER = Producer("0.1.0")


def case_of(center: Center) -> Case:
    (files,) = list_cases(center)
    return load_case(center, files)


def label_of(case: Case) -> np.ndarray:
    """What the labels below hold: pancreas above 0, tumor above 250 HU of `stored_values`."""
    return np.where(case.image_hu > 250, 2, np.where(case.image_hu > 0, 1, 0)).astype(np.uint8)


def write_pair(tmp_path: Path, axes: np.ndarray | None = None, **given: Any) -> Center:
    """A series and a SEG on it, as the folders images and labels of a center."""
    stored = given.pop("stored", stored_values())
    files = write_series(tmp_path / "images" / "P1", stored, axes, **given)
    case = load_image(tmp_path / "images" / "P1", "P1")
    masks = {"pancreas": case.image_hu > 0, "tumor": case.image_hu > 250}
    write_dicom_seg(tmp_path / "labels" / "P1.dcm", masks, files, case.grid, PRODUCER)
    return folder_center(tmp_path)


def write_seg(
    path: Path,
    masks: Mapping[str, np.ndarray],
    files: list[Path],
    kind: str = "BINARY",
    grid: Grid | None = None,
) -> None:
    """A SEG of another tool: segments of any name, coded as tissue; masks in the files' order.

    `grid`: its own geometry (axes along the world's).
    """
    stacked = np.stack(list(masks.values()), -1)
    array: Any = stacked.astype(np.uint8)
    if kind == "FRACTIONAL":
        array = stacked.astype(np.float32)
    if kind == "LABELMAP":
        array = (stacked * np.arange(1, len(masks) + 1)).max(axis=-1).astype(np.uint8)
    if grid is not None:
        affine = np.diag([*grid.spacing_xyz[::-1], 1.0])[[2, 1, 0, 3]]
        affine[:3, 3] = grid.origin_xyz
        array = hd.Volume(
            array,
            affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid=FRAME,
            channels={"SegmentNumber": list(range(1, len(masks) + 1))},
        )
    tissue = hd.sr.CodedConcept("85756007", "SCT", "Tissue")
    described = [
        hd.seg.SegmentDescription(number, name, tissue, tissue, "MANUAL")
        for number, name in enumerate(masks, 1)
    ]
    sources = [pydicom.dcmread(file) for file in files]
    seg = hd.seg.Segmentation(
        *(sources, array, kind, described, hd.UID(), 1, hd.UID(), 1, "M", "N", "1", "2")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)


def halves() -> dict[str, np.ndarray]:
    """Masks by `stored_values`: the pancreas without the tumor, the tumor, something else."""
    stored = stored_values()
    return {
        "Organ": (stored > 0) & (stored <= 250),
        "Mass": stored > 250,
        "Liver": stored < -200,
    }


STRUCTURES = {"pancreas": ("organ",), "tumor": ("tumour", "mass")}


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
    write_array(tmp_path / "nifti" / "P1.nrrd", case.image_hu, case.grid)
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


# RTSTRUCT


def box(slice_: float, rows: tuple[int, int], columns: tuple[int, int], kind: str = "") -> Loop:
    """A rectangle around the pixels from the first up to, without, the last row and column."""
    (top, bottom), (left, right) = rows, columns
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return kind or "CLOSED_PLANAR", slice_, [(r - 0.5, c - 0.5) for r, c in corners]


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


# Where the files lie


def test_images_and_labels_may_share_a_patients_folder(tmp_path: Path) -> None:
    write_pair(tmp_path)
    patient = tmp_path / "data" / "P1"
    shutil.copytree(tmp_path / "images" / "P1", patient / "study" / "ct")
    (patient / "study" / "seg").mkdir()
    shutil.copy(tmp_path / "labels" / "P1.dcm", patient / "study" / "seg" / "1-1.dcm")
    center = Center("C", "folder", tmp_path / "data", images=".", labels=".")
    case = case_of(center)
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))
    shutil.move(patient / "study" / "seg" / "1-1.dcm", patient / "study" / "ct" / "seg.dcm")
    (patient / "study" / "seg").rmdir()
    beside = case_of(center)  # among the slices
    assert beside.label is not None
    np.testing.assert_array_equal(beside.label, case.label)
    assert len(load_image(patient, "P1").image_hu) == SHAPE[0]
    write_structure_set(patient / "study" / "ct" / "rt.dcm", {"Other": [box(1, (1, 3), (1, 3))]})
    assert load_image(patient, "P1").notes == ()


def test_folders_with_labels_alone_hold_no_slices(tmp_path: Path) -> None:
    write_pair(tmp_path)
    assert slice_folders(tmp_path) == [tmp_path / "images" / "P1"]
    shutil.copy(tmp_path / "labels" / "P1.dcm", tmp_path / "images" / "P2.dcm")
    listing = list_center(folder_center(tmp_path, label_suffix="_seg"))
    assert [case.label for case in listing.cases] == [None]
    assert dict(listing.left_out) == {
        str(
            tmp_path / "images" / "P2.dcm"
        ): "is a DICOM label among the images; give its folder by labels, or move it",
        str(tmp_path / "labels" / "P1.dcm"): "has a name that does not end in '_seg'",
    }


def test_names_with_dots_and_suffixes_are_matched(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "images" / "P1").rename(tmp_path / "images" / "1.2.3")
    (tmp_path / "labels" / "P1.dcm").rename(tmp_path / "labels" / "1.2.3_seg")
    case = case_of(folder_center(tmp_path, label_suffix="_seg"))
    assert case.case_id == "1.2.3"
    assert case.label is not None


def test_two_labels_of_a_case_are_refused(tmp_path: Path) -> None:
    center = write_pair(tmp_path)
    (tmp_path / "labels" / "P1").mkdir()
    for name in ("a.dcm", "b.dcm"):
        shutil.copy(tmp_path / "labels" / "P1.dcm", tmp_path / "labels" / "P1" / name)
    (tmp_path / "labels" / "P1.dcm").unlink()
    with pytest.raises(DataError, match=r"holds 2 labels \(a.dcm, b.dcm\); keep one"):
        case_of(center)


def test_the_keys_of_a_center_choose_segments(tmp_path: Path) -> None:
    files = write_series(tmp_path / "C" / "images" / "P1", stored_values())
    write_seg(tmp_path / "C" / "labels" / "P1.dcm", halves(), files)
    path = tmp_path / "centers.toml"
    text = '[centers.C]\nreader = "folder"\npath = "C"\n'
    path.write_text(text + 'structures = { pancreas = "Organ", tumor = "Mass" }\n')
    center = load_centers(path)["C"]
    case = case_of(center)
    assert case.label is not None
    np.testing.assert_array_equal(case.label, label_of(case))
    (listed,) = list_cases(center)
    assert ("structures", center.structures) in reading_rule(center, listed)
    (tmp_path / "C" / "labels" / "P1.dcm").unlink()
    with pytest.raises(DataError, match="structures names the segments of DICOM labels, and there"):
        list_center(center)


def test_a_damaged_object_is_refused_by_name(tmp_path: Path) -> None:
    center = write_pair(tmp_path)
    path = tmp_path / "labels" / "P1.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"C/P1: .*P1.dcm: .*cannot be read"):
        case_of(center)
    dataset = pydicom.dcmread(tmp_path / "images" / "P1" / "IM0000")
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.save_as(path)
    with pytest.raises(DataError, match="neither a segmentation nor a structure set"):
        case_of(center)
