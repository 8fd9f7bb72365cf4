"""NIfTI: voxels to the last byte, and headers whose numbers contradict each other."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from data.case import DataError
from data.readers import load_image
from data.readers.header import estimate_voxels
from data.readers.nifti import read_nifti
from data.readers.volume import read_volume
from tests.volumes import make_image_hu

AFFINE = np.diag([-0.7, -1.3, 2.9, 1.0])  # RAS; x to the left, y to the back, z to the head
SHAPE = (5, 6, 7)
# Byte offsets of the NIfTI-1 header (nifti1.h)
DIM, DATATYPE, PIXDIM, SCALE, UNITS, QFORM_CODE = 40, 70, 76, 112, 123, 252


def save(path: Path, array: np.ndarray, edit: Callable[[Any], None] | None = None) -> Path:
    """An image with both forms on `AFFINE`."""
    image = nib.Nifti1Image(array.T, AFFINE, dtype=array.dtype)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    if edit is not None:
        edit(image)
    nib.save(image, path)
    return path


def patch(path: Path, offset: int, numbers: np.ndarray) -> Path:
    """Overwrite bytes of the header."""
    packed = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    raw = numbers.tobytes()
    content[offset : offset + len(raw)] = raw
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    return path


def floats(numbers: npt.ArrayLike) -> np.ndarray:
    return np.asarray(numbers, "<f4")


def without_forms(path: Path) -> Path:
    return patch(path, QFORM_CODE, np.zeros(2, "<i2"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_number_type_in_both_byte_orders(tmp_path: Path, kind: str, order: str) -> None:
    values = np.arange(105).reshape(3, 5, 7)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(order + kind))
    nib.save(nib.Nifti1Image(values.T.astype(kind), AFFINE, header), tmp_path / "a.nii.gz")
    array, _, notes = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(array, values)
    assert array.dtype.isnative
    assert array.dtype.itemsize <= 4
    assert notes == ()


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 2), (0, 1), (0, 2), (4, 0), (1, 0)])
@pytest.mark.parametrize("moved", [(0, 0, 0), (30, 0, 0), (0, -7, 12)])
def test_the_place_is_the_one_that_simpleitk_takes(
    tmp_path: Path, codes: tuple[int, int], moved: tuple[int, int, int]
) -> None:
    path = save(tmp_path / "a.nii", make_image_hu())
    sform = floats(nib.load(path).affine)  # type: ignore[attr-defined]
    sform[:3, 3] += moved
    patch(path, 280, sform[:3])
    patch(path, QFORM_CODE, np.array(codes, "<i2"))
    expected = sitk.ReadImage(str(path))
    grid = read_volume(path).grid
    assert grid.origin_xyz == pytest.approx(expected.GetOrigin(), abs=1e-5)
    assert grid.spacing_xyz == pytest.approx(expected.GetSpacing(), abs=1e-6)
    assert grid.direction == pytest.approx(expected.GetDirection(), abs=1e-6)


def test_nifti_2_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(make_image_hu().T, AFFINE), tmp_path / "a.nii.gz")
    case = load_image(tmp_path / "a.nii.gz", "a")
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    assert case.spacing == pytest.approx((2.9, 1.3, 0.7))


@pytest.mark.parametrize("steps", [(0.7, -1.3, 2.9), (0.7, 0, 2.9), (0, 0, 0), (np.nan, 1.3, 2.9)])
def test_a_wrong_voxel_size_in_pixdim_is_taken_from_the_sform_with_a_note(
    tmp_path: Path, steps: tuple[float, float, float]
) -> None:
    path = patch(save(tmp_path / "a.nii.gz", make_image_hu()), PIXDIM + 4, floats(steps))
    case = load_image(path, "a")
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    assert case.spacing == pytest.approx((2.9, 1.3, 0.7))
    assert "in pixdim; read as 0.7 x 1.3 x 2.9 mm" in case.notes[0]
    assert estimate_voxels(path, None) == 210
    assert estimate_voxels(path, (2.9, 1.3, 0.35)) == 420


def test_a_voxel_size_of_0_that_nothing_else_tells_is_refused(tmp_path: Path) -> None:
    for codes in ((1, 0), (0, 0)):
        path = save(tmp_path / "a.nii.gz", make_image_hu())
        patch(path, PIXDIM + 12, floats([0]))
        patch(path, QFORM_CODE, np.array(codes, "<i2"))
        with pytest.raises(DataError, match=r"a\.nii\.gz: its voxel size is 0\.7 x 1\.3 x 0 \(pix"):
            load_image(path, "a")
        assert estimate_voxels(path, None) == 0


def test_two_voxel_sizes_are_refused_where_no_qform_decides(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", make_image_hu()), PIXDIM + 4, floats([1, 1, 1]))
    patch(path, QFORM_CODE, np.array((0, 1), "<i2"))
    with pytest.raises(DataError, match=r"two voxel sizes, 1 x 1 x 1 \(pixdim\) and 0\.7 x 1\.3"):
        load_image(path, "a")


def test_a_header_without_forms_is_read_with_a_note_but_never_as_1_x_1_x_1(tmp_path: Path) -> None:
    path = without_forms(save(tmp_path / "a.nii", make_image_hu()))
    case = load_image(path, "a")
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    assert "gives no orientation (qform_code and sform_code are 0)" in case.notes[0]
    patch(path, PIXDIM + 4, floats([1, 1, 1]))
    with pytest.raises(DataError, match="neither voxel size nor orientation"):
        load_image(path, "a")


def test_voxels_of_exactly_1_mm_at_position_0_are_noted(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(make_image_hu().T, np.eye(4)), tmp_path / "a.nii.gz")
    (note,) = load_image(tmp_path / "a.nii.gz", "a").notes
    assert "exactly 1 x 1 x 1 mm" in note


@pytest.mark.parametrize(
    ("unit", "scale", "note"),
    [
        ("micron", 1, "says micrometers, but voxels of 0.7 x 1.3 x 2.9"),
        ("meter", 1, "says meters, but voxels of 0.7 x 1.3 x 2.9"),
        ("micron", 1000, "is in micrometers; converted to mm"),
        ("meter", 0.001, "is in meters; converted to mm"),
    ],
)
def test_units_are_converted_and_wrong_ones_are_not(
    tmp_path: Path, unit: str, scale: float, note: str
) -> None:
    def edit(image: Any) -> None:
        affine = np.diag([scale, scale, scale, 1]) @ AFFINE
        affine[:3, 3] = np.array((10, 20, 30)) * scale
        image.set_qform(affine, 1)
        image.set_sform(affine, 1)
        image.header.set_xyzt_units(unit)

    case = load_image(save(tmp_path / "a.nii.gz", make_image_hu(), edit), "a")
    assert case.spacing == pytest.approx((2.9, 1.3, 0.7))
    assert case.grid.origin_xyz == pytest.approx((-10, -20, 30))
    assert any(note in text for text in case.notes)


@pytest.mark.parametrize("steps", [(0.7, 0.7, 40.0), (0.05, 0.05, 2.0), (700.0, 700.0, 2900.0)])
def test_a_spacing_that_no_ct_has_is_refused(
    tmp_path: Path, steps: tuple[float, float, float]
) -> None:
    nib.save(nib.Nifti1Image(make_image_hu().T, np.diag([*steps, 1])), tmp_path / "a.nii.gz")
    image = sitk.GetImageFromArray(make_image_hu())
    image.SetSpacing(steps)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    for name in ("a.nii.gz", "a.nrrd"):
        with pytest.raises(DataError, match=rf"{name}: voxels of .* mm are no CT"):
            load_image(tmp_path / name, "a")


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    image_hu = make_image_hu()
    for slope, inter, kind in ((1, -1024, np.uint16), (0.5, -200.25, np.int16), (1, 7, np.int32)):
        stored = np.rint((image_hu - inter) / slope).astype(kind)
        path = patch(save(tmp_path / "a.nii.gz", stored), SCALE, floats([slope, inter]))
        array, _, _ = read_nifti(path)
        np.testing.assert_array_equal(array, stored.astype(float) * slope + inter)
    for nothing in ((0, 5), (np.nan, np.nan)):
        patch(save(path, image_hu), SCALE, floats(nothing))
        np.testing.assert_array_equal(read_nifti(path)[0], image_hu)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_files_longer_than_their_header_says_are_refused(tmp_path: Path, suffix: str) -> None:
    path = patch(save(tmp_path / f"a{suffix}", make_image_hu()), DIM + 6, np.array([4], "<i2"))
    with pytest.raises(DataError, match=r"longer than its header says \(420 instead of 336 bytes"):
        load_image(path, "a")


@pytest.mark.parametrize("zeros", [1, 200])
def test_changed_bytes_of_a_compressed_file_are_noticed_wherever_they_are(
    tmp_path: Path, zeros: int
) -> None:
    path = save(tmp_path / "a.nii.gz", make_image_hu(shape=(10, 12, 14)))
    content = path.read_bytes()
    for start in np.linspace(20, len(content) - 8, 40).astype(int):
        changed = bytearray(content)
        part = changed[start : start + zeros]
        changed[start : start + zeros] = bytes(b ^ 85 for b in part) if zeros == 1 else bytes(zeros)
        path.write_bytes(changed[: len(content)])
        with pytest.raises(DataError, match=r"a\.nii\.gz: "):
            load_image(path, "a")


def test_colors_and_unknown_types_are_refused_by_cause(tmp_path: Path) -> None:
    rgb = np.zeros((7, 6, 5), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(rgb, AFFINE), tmp_path / "a.nii")
    with pytest.raises(DataError, match="several values per voxel"):
        load_image(tmp_path / "a.nii", "a")
    path = patch(save(tmp_path / "b.nii", make_image_hu()), DATATYPE, np.array([77], "<i2"))
    with pytest.raises(DataError, match="unknown number type"):
        load_image(path, "a")


def test_integers_that_fit_no_label_and_no_ct_are_refused(tmp_path: Path) -> None:
    wide = make_image_hu().astype(np.int64)
    wide[0, 0, 0] = 2**40
    with pytest.raises(DataError, match=r"holds values from -.* to 1099511627776"):
        read_nifti(save(tmp_path / "a.nii.gz", wide))


def test_a_float64_volume_is_kept_at_4_bytes_per_voxel(tmp_path: Path) -> None:
    array = read_nifti(save(tmp_path / "a.nii.gz", make_image_hu().astype(np.float64)))[0]
    assert array.dtype == np.float32


def test_color_is_told_apart_from_time_points(tmp_path: Path) -> None:
    for shape, words in (((7, 6, 5, 1, 3), "several values per voxel"), ((7, 6, 5, 3), "one time")):
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), AFFINE), tmp_path / "a.nii.gz")
        with pytest.raises(DataError, match=words):
            read_nifti(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_size_that_the_file_cannot_hold_is_no_question_of_memory(
    tmp_path: Path, name: str
) -> None:
    path = save(tmp_path / name, make_image_hu())
    patch(path, 40, np.array((3, 30000, 30000, 30000), "<i2"))
    with pytest.raises(DataError, match=r"is cut short, or the size in its header is wrong"):
        read_nifti(path)


def test_a_start_of_the_voxels_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", make_image_hu()), 108, floats([np.nan]))
    with pytest.raises(DataError, match=r"its header is corrupt \(vox_offset nan\)"):
        read_nifti(path)
