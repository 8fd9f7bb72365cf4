"""Labels: values and geometry that are right are read, all others refused with a cure."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.case import DataError
from data.readers import list_cases, load_case, narrow
from data.readers.label import map_values
from data.readers.narrow import narrowed
from tests.volumes import (
    folder_center,
    load_pair,
    make_image_hu,
    make_label,
    to_image,
)


def test_float_labels_that_hold_integers_are_accepted(tmp_path: Path) -> None:
    label = make_label().astype(np.float32) + np.float32(1e-6)
    case = load_pair(tmp_path, make_image_hu(), label)
    assert case.label is not None
    assert case.label.dtype == np.uint8
    np.testing.assert_array_equal(case.label, make_label())


@pytest.mark.parametrize("bad", [0.5, np.nan])
def test_labels_that_hold_no_integers_are_refused(tmp_path: Path, bad: float) -> None:
    label = make_label().astype(np.float32)
    label[0, 0, 0] = bad
    with pytest.raises(DataError, match=r"C/a: .*must hold integers, but 1 voxels .*nearest"):
        load_pair(tmp_path, make_image_hu(), label)


def test_unknown_label_values_are_named_with_case_and_map(tmp_path: Path) -> None:
    label = make_label()
    label[4, 5, 5:] = 7
    with pytest.raises(DataError) as error:
        load_pair(tmp_path, make_image_hu(), label)
    text = str(error.value)
    assert text.startswith("C/a: ")
    assert "unknown label value 7 (2 voxels)" in text
    assert "pancreas = [1], tumor = [2]" in text


def test_a_label_map_joins_values_and_the_tumor_wins(tmp_path: Path) -> None:
    label = make_label()
    label[0, 0, 0] = 5
    label[0, 0, 1] = 9
    label_map = {"background": (0, 9), "pancreas": (1, 2, 5), "tumor": (2,)}
    case = load_pair(tmp_path, make_image_hu(), label, label_map=label_map)
    expected = make_label()
    expected[0, 0, 0] = 1
    np.testing.assert_array_equal(case.label, expected)


def test_an_empty_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'C/a: .*is empty.*"a" under exclude'):
        load_pair(tmp_path, make_image_hu(), np.zeros((5, 6, 7), np.uint8))


def test_a_tumor_in_a_center_without_lesions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has_lesions = false"):
        load_pair(tmp_path, make_image_hu(), make_label(), has_lesions=False)


def shifted_label(mm: float) -> sitk.Image:
    label = to_image(make_label())
    label.SetOrigin([coordinate + mm for coordinate in label.GetOrigin()])
    return label


def test_a_label_header_rounded_within_a_quarter_voxel_is_accepted(tmp_path: Path) -> None:
    case = load_pair(tmp_path, make_image_hu(), shifted_label(0.1))
    np.testing.assert_array_equal(case.label, make_label())


def test_a_label_that_lies_elsewhere_is_refused_and_both_cures_work(tmp_path: Path) -> None:
    moved = to_image(make_label())
    moved.SetOrigin((moved.GetOrigin()[0] + 0.7, *moved.GetOrigin()[1:]))  # one voxel to the left
    with pytest.raises(DataError, match=r"0\.7 mm off.*origin_xyz.*label_geometry") as error:
        load_pair(tmp_path, make_image_hu(), moved)
    assert "C/a: " in str(error.value)
    by_image = load_pair(tmp_path, make_image_hu(), moved, label_geometry="image")
    np.testing.assert_array_equal(by_image.label, make_label())
    resampled = load_pair(tmp_path, make_image_hu(), moved, label_geometry="resample")
    expected = np.roll(make_label(), 1, axis=2)
    np.testing.assert_array_equal(resampled.label, expected)


def test_a_label_of_another_size_is_refused_or_resampled(tmp_path: Path) -> None:
    cropped = to_image(make_label())[1:, 1:, 1:]  # keeps its place in the world
    with pytest.raises(DataError, match=r"size_xyz \(6, 5, 4\) instead of \(7, 6, 5\)"):
        load_pair(tmp_path, make_image_hu(), cropped)
    with pytest.raises(DataError, match=r"has \(4, 5, 6\) voxels"):
        load_pair(tmp_path, make_image_hu(), cropped, label_geometry="image")
    for orientation in ("LPS", "RAI", "SLP"):
        turned = to_image(make_image_hu(), orientation=orientation)
        case = load_pair(tmp_path, turned, cropped, label_geometry="resample")
        np.testing.assert_array_equal(case.label, make_label())


def test_a_mirrored_label_is_refused(tmp_path: Path) -> None:
    label = to_image(make_label())
    mirrored = sitk.GetImageFromArray(make_label())
    mirrored.SetSpacing(label.GetSpacing())
    mirrored.SetOrigin(label.GetOrigin())
    mirrored.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    with pytest.raises(DataError, match="direction"):
        load_pair(tmp_path, make_image_hu(), mirrored)


LABEL_MAP = {"background": (0,), "pancreas": (1,), "tumor": (2,)}


def test_an_image_in_place_of_a_label_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"C/a: .*unknown label values from -\d+ to \d+: is it an im"
    ):
        load_pair(tmp_path, make_image_hu(), make_image_hu())


def test_values_are_counted_over_all_slices() -> None:
    array = np.zeros((3, 2, 2), np.int16)
    array[:, 0, 0] = (5, 1, 5)
    with pytest.raises(DataError, match=r"unknown label value 5 \(2 voxels\)"):
        map_values(array, LABEL_MAP, Path("a.nii"))
    with pytest.raises(DataError, match=r"integers, but 3 voxels do not \(for example 0\.5\)"):
        map_values(np.where(array > 0, 0, 0.5)[..., :1], LABEL_MAP, Path("a.nii"))


def moved_label(mm: float) -> sitk.Image:
    """Headers that put the label so far to the left of its image."""
    label = to_image(make_label())
    x, y, z = label.GetOrigin()
    label.SetOrigin((x + mm, y, z))
    return label


def test_a_label_half_outside_its_image_is_reported_by_its_part(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case = load_pair(tmp_path, make_image_hu(), moved_label(4 * 0.7), label_geometry="resample")
    outside = np.count_nonzero(make_label()[..., 3:]) / np.count_nonzero(make_label())
    assert case.notes == (
        f"{100 * outside:.0f} % of its label lie outside the image and are lost (by the headers, "
        "label_geometry is resample): is it another case's?",
    )
    assert [str(warning.message) for warning in caught] == [f"C/a: {case.notes[0]}"]


def test_a_label_wholly_outside_its_image_is_refused_by_that_cause(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"C/a: .*lies wholly outside its image.*label_geometry"):
        load_pair(tmp_path, make_image_hu(), moved_label(100), label_geometry="resample")


def write_wide(path: Path, array: np.ndarray, slope: float = 1, intercept: float = 0) -> Path:
    """A NIfTI of the array's own type, in an oblique place."""
    affine = np.array([[-0.7, 0, 0, 31], [0, -1.3, 0, -12], [0, 0, 2.9, -400], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(array.T, affine, dtype=array.dtype)
    image.header.set_slope_inter(slope, intercept)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["<f8", ">f8", "<f4", "<i8", ">i4", "<u8"])
def test_wide_labels_are_narrowed_and_keep_header_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, kind: str
) -> None:
    monkeypatch.setattr(narrow, "MIN_VOXELS", 1)
    monkeypatch.setattr(narrow, "SLAB_VOXELS", 11)
    path = write_wide(tmp_path / f"a{ending}", make_label().astype(kind))
    with narrowed(path) as small:
        assert small != path
        was, now = sitk.ReadImage(str(path)), sitk.ReadImage(str(small))
        assert now.GetPixelIDTypeAsString() == "16-bit signed integer"
        np.testing.assert_array_equal(sitk.GetArrayFromImage(now), make_label())
        for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(now, name)() == getattr(was, name)()
    assert not small.exists()


def test_a_scaled_label_is_narrowed_to_what_it_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow, "MIN_VOXELS", 1)
    path = write_wide(tmp_path / "a.nii", make_label().astype(np.float64) * 4 + 8)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([0.25, -2], "<f4").tobytes()
    path.write_bytes(raw)
    with narrowed(path) as small:
        assert small != path
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(small))), make_label()
        )


def test_what_is_no_wide_whole_label_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow, "MIN_VOXELS", 1)
    whole = write_wide(tmp_path / "whole.nii.gz", make_label().astype(np.float64)).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[:-20])
    (tmp_path / "crc.nii.gz").write_bytes(whole[:-6] + b"\0" + whole[-5:])
    (tmp_path / "none.nii.gz").write_bytes(b"")
    write_wide(tmp_path / "narrow.nii", make_label())
    write_wide(tmp_path / "half.nii", make_label() / 2)
    write_wide(tmp_path / "large.nii", make_label() * 1e6)
    for name in ("cut.nii.gz", "crc.nii.gz", "none.nii.gz", "narrow.nii", "half.nii", "large.nii"):
        with narrowed(tmp_path / name) as small:
            assert small == tmp_path / name


def test_problems_of_a_narrowed_label_name_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow, "MIN_VOXELS", 1)
    (tmp_path / "labels").mkdir()
    write_wide(tmp_path / "labels" / "a.nii.gz", np.stack([make_label()] * 2) * 1.0)
    image = to_image(make_image_hu())
    (tmp_path / "images").mkdir()
    sitk.WriteImage(image, str(tmp_path / "images" / "a.nii.gz"))
    center = folder_center(tmp_path)
    with pytest.raises(DataError, match=r"C/a: .*labels/a\.nii\.gz: has size"):
        load_case(center, list_cases(center)[0])


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from data.readers.files import CaseFiles
from data.readers.label import read_label
from data.readers.volume import Volume, read_volume
grid = read_volume(Path(sys.argv[1])).grid
image = Volume(np.zeros(grid.size_xyz[::-1], bool), grid)
del grid
image.array[:] = True
files = CaseFiles("a", Path(), Path(sys.argv[2]), "a")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_label(files, image, {"pancreas": (1,), "tumor": (2,)}, "strict")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / image.array.size)
"""


@pytest.mark.slow
def test_a_large_float64_label_costs_few_bytes_a_voxel(tmp_path: Path) -> None:
    label = np.zeros((80, 400, 400))
    label[20:60, 100:300, 100:300] = 1
    wide = write_wide(tmp_path / "wide.nii.gz", label)
    narrow_ = write_wide(tmp_path / "narrow.nii.gz", label.astype(np.uint8))
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(narrow_), str(wide)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 <= float(run.stdout) < 8  # 36 when read at once; measured: see docs/data.md
