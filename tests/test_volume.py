"""Volumes: any orientation in, one inside, back on the input's own grid; faults named."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.case import DataError, Grid
from data.readers import list_cases, load_case, load_image, read_mask, write_mask
from data.readers.volume import axis_map, grid_axis_map, read_volume
from tests.volumes import (
    ORIENTATIONS,
    SPACING,
    folder_center,
    make_image_hu,
    make_label,
    to_image,
    write_volume,
)


def rotation(degrees: tuple[float, ...]) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.deg2rad(degrees))
    return np.reshape(transform.GetMatrix(), (3, 3))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("tilt", [(0.0, 0.0, 0.0), (11.0, -7.0, 23.0)])
def test_all_48_orientations_read_alike_and_masks_return_to_the_files_own_grid(
    tmp_path: Path, suffix: str, tilt: tuple[float, float, float]
) -> None:
    image_hu, label = make_image_hu(), make_label()
    assert len(ORIENTATIONS) == 48
    center = folder_center(tmp_path)
    for number, orientation in enumerate(ORIENTATIONS):
        image = to_image(image_hu, orientation=orientation)
        turned = rotation(tilt) @ np.reshape(image.GetDirection(), (3, 3))
        image.SetDirection(turned.ravel().tolist())
        other = to_image(label, orientation=ORIENTATIONS[(number * 7) % 48])
        if tilt == (0.0, 0.0, 0.0):  # a label may lie in another orientation than its image
            write_volume(tmp_path / "labels" / f"a{suffix}", other)
        else:
            own = sitk.GetImageFromArray(
                sitk.GetArrayFromImage(to_image(label, orientation=orientation))
            )
            own.CopyInformation(image)
            write_volume(tmp_path / "labels" / f"a{suffix}", own)
        path = write_volume(tmp_path / "images" / f"a{suffix}", image)

        case = load_case(center, list_cases(center)[0])
        np.testing.assert_array_equal(case.image_hu, image_hu)
        np.testing.assert_array_equal(case.label, label)
        assert case.spacing == pytest.approx(SPACING, abs=1e-5)

        written = tmp_path / f"mask{suffix}"
        write_mask(written, case.image_hu > 0, case.grid)
        mask, original = sitk.ReadImage(str(written)), sitk.ReadImage(str(path))
        assert mask.GetSize() == original.GetSize()
        assert mask.GetSpacing() == pytest.approx(original.GetSpacing(), abs=1e-6)
        assert mask.GetOrigin() == pytest.approx(original.GetOrigin(), abs=1e-4)
        assert mask.GetDirection() == pytest.approx(original.GetDirection(), abs=1e-6)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(original) > 0
        )
        if suffix == ".nii.gz":
            np.testing.assert_allclose(
                nib.load(written).affine,  # type: ignore[attr-defined]
                nib.load(path).affine,  # type: ignore[attr-defined]
                atol=1e-4,
            )
        np.testing.assert_array_equal(read_mask(written, case.grid), case.image_hu > 0)


def test_the_canonical_orientation_is_simpleitks_lps_for_turned_axes_too() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        image = to_image(make_image_hu(), orientation=str(rng.choice(ORIENTATIONS)))
        tilted = rotation(tuple(rng.uniform(-25, 25, 3))) @ np.reshape(image.GetDirection(), (3, 3))
        image.SetDirection(tilted.ravel().tolist())
        expected = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
        found = axis_map(tilted).to_canonical(sitk.GetArrayFromImage(image))
        np.testing.assert_array_equal(found, expected)


def test_axes_at_45_degrees_still_come_back_exactly() -> None:
    array = make_image_hu()
    for degrees in itertools.product((0.0, 45.0, -45.0), repeat=3):
        mapping = axis_map(rotation(degrees))
        np.testing.assert_array_equal(mapping.to_file(mapping.to_canonical(array)), array)


def test_trailing_singleton_axes_are_dropped(tmp_path: Path) -> None:
    image_hu = make_image_hu()
    plain = to_image(image_hu)
    five = sitk.JoinSeries([sitk.JoinSeries([plain])])
    assert five.GetDimension() == 5
    for suffix in (".nrrd", ".mha", ".nii.gz"):
        path = write_volume(tmp_path / f"a{suffix}", five)
        case = load_image(path, "a")
        np.testing.assert_array_equal(case.image_hu, image_hu)
        assert case.spacing == pytest.approx(SPACING)
        write_mask(tmp_path / f"m{suffix}", image_hu > 0, case.grid)
        assert sitk.ReadImage(str(tmp_path / f"m{suffix}")).GetSize() == plain.GetSize()


def test_two_time_points_are_refused(tmp_path: Path) -> None:
    plain = to_image(make_image_hu())
    path = write_volume(tmp_path / "a.nrrd", sitk.JoinSeries([plain, plain]))
    with pytest.raises(DataError, match=r"a\.nrrd: has size \(7, 6, 5, 2\), not one 3-D volume"):
        load_image(path, "a")


def test_color_images_are_refused(tmp_path: Path) -> None:
    plain = to_image(make_image_hu())
    path = write_volume(tmp_path / "a.nrrd", sitk.Compose(plain, plain, plain))
    with pytest.raises(DataError, match="several values per voxel"):
        load_image(path, "a")


def test_padding_below_air_and_values_above_12_bits_are_clamped(tmp_path: Path) -> None:
    image_hu = make_image_hu()
    image_hu[0, 0, :3] = (-3024, -2048, 30000)
    case = load_image(write_volume(tmp_path / "a.nii.gz", image_hu), "a")
    assert case.image_hu[0, 0, :3].tolist() == [-1024, -1024, 3071]
    np.testing.assert_array_equal(case.image_hu[1:], image_hu[1:])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8, np.int32, np.float32, np.float64])
def test_every_number_type_reads_as_the_same_hu(tmp_path: Path, dtype: type) -> None:
    image_hu = np.arange(210).reshape(5, 6, 7)
    case = load_image(write_volume(tmp_path / "a.nrrd", image_hu.astype(dtype)), "a")
    assert case.image_hu.dtype == np.int16
    np.testing.assert_array_equal(case.image_hu, image_hu)


def test_fractions_are_rounded_and_what_is_no_number_is_air_with_a_note(tmp_path: Path) -> None:
    array = make_image_hu().astype(np.float32) + 0.4
    array[0, 0, :2] = (np.nan, np.inf)
    case = load_image(write_volume(tmp_path / "a.nrrd", array), "a")
    assert case.image_hu[0, 0, :2].tolist() == [-1024, -1024]
    np.testing.assert_array_equal(case.image_hu[1:], make_image_hu()[1:])
    assert "2 voxels are not a number" in case.notes[0]


@pytest.mark.parametrize(("kind", "suffix", "most"), [
    (np.int16, ".nii.gz", 4), (np.int16, ".nrrd", 4), (np.float64, ".nii", 8),
])  # fmt: skip
def test_reading_needs_few_bytes_per_voxel(
    tmp_path: Path, kind: type, suffix: str, most: int
) -> None:
    shape = (60, 200, 200)
    noise = np.random.default_rng(0).normal(0, 60, shape)
    image: np.ndarray = noise.astype(kind)
    image[:, :60] -= 1000
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(to_image(image), str(path))
    tracemalloc.start()
    load_image(path, "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= most * image.size + 50e6  # the sample that values are judged by, and buffers


def test_an_image_of_one_value_is_refused(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "a.nrrd", np.zeros((5, 6, 7), np.int16))
    with pytest.raises(DataError, match="every voxel has the same value"):
        load_image(path, "a")


@pytest.mark.parametrize("keep", [0.03, 0.5, 0.95, -6])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_files_cut_short_are_refused_with_cause_and_cure(
    tmp_path: Path, suffix: str, keep: float
) -> None:
    path = write_volume(tmp_path / f"a{suffix}", make_image_hu(shape=(10, 12, 14)))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep > 0 else int(keep)])
    with pytest.raises(DataError, match=rf"a{suffix}: .*cut short.*copy or download .* again"):
        read_volume(path)


def test_a_corrupt_byte_in_a_gzip_file_is_noticed(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "a.nii.gz", make_image_hu(shape=(10, 12, 14)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="cut short or corrupt"):
        read_volume(path)


def test_text_that_claims_to_be_an_image_is_refused(tmp_path: Path) -> None:
    for suffix in (".nii.gz", ".nii", ".nrrd", ".mha"):
        path = tmp_path / f"a{suffix}"
        path.write_text("404: not found")
        with pytest.raises(DataError, match=rf"a{suffix}: "):
            read_volume(path)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write through nibabel, which keeps any affine."""
    nib.save(nib.Nifti1Image(array.T, affine), path)
    return path


@pytest.mark.parametrize("shear", [3e-5, 3e-4, 5e-3])
def test_axes_nearly_at_right_angles_are_read_with_a_note_and_kept_in_the_mask(
    tmp_path: Path, shear: float
) -> None:
    affine = np.diag([-0.7, -1.3, 2.9, 1.0])
    affine[0, 1] = 1.3 * shear
    path = save_nifti(tmp_path / "a.nii.gz", make_image_hu(), affine)
    case = load_image(path, "a")
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    assert "off right angles" in case.notes[0]
    write_mask(tmp_path / "m.nii.gz", case.image_hu > 0, case.grid)
    written = nib.load(tmp_path / "m.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-4)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii.gz", case.grid), case.image_hu > 0)


@pytest.mark.parametrize("shear", [3e-5, 1e-3, 9e-3])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_masks_on_slightly_sheared_grids_are_opened_by_itk_and_lie_where_the_image_lies(
    tmp_path: Path, shear: float, suffix: str
) -> None:
    affine = np.diag([-0.7, -1.3, 2.9, 1.0])
    affine[0, 1], affine[1, 2] = 1.3 * shear, -2.9 * shear / 2
    affine[:3, 3] = (12, -31, 405)
    image_hu = make_image_hu(shape=(8, 12, 14))
    case = load_image(save_nifti(tmp_path / "a.nii.gz", image_hu, affine), "a")
    write_mask(tmp_path / f"m{suffix}", case.image_hu > 0, case.grid)
    mask = sitk.ReadImage(str(tmp_path / f"m{suffix}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), image_hu > 0)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    extent = np.linalg.norm(affine[:3, :3] @ (13, 11, 7))
    for index in itertools.product((0, 13), (0, 11), (0, 7)):
        exact = to_lps @ (affine @ (*index, 1))[:3]
        found = mask.TransformContinuousIndexToPhysicalPoint([float(i) for i in index])
        assert np.linalg.norm(found - exact) <= shear * extent / 2 + 1e-4


def test_sheared_axes_are_refused(tmp_path: Path) -> None:
    affine = np.diag([-0.7, -1.3, 2.9, 1.0])
    affine[1, 2] = 2.9 * np.tan(np.deg2rad(10))  # a gantry tilted by 10 degrees
    nifti = save_nifti(tmp_path / "a.nii.gz", make_image_hu(), affine)
    image = to_image(make_image_hu())
    image.SetDirection((1, 0.1, 0, 0, 1, 0, 0, 0, 1))
    for path in (nifti, write_volume(tmp_path / "a.nrrd", image)):
        with pytest.raises(DataError, match=r"not at right angles .* resample it"):
            load_image(path, "a")


def test_masks_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = load_image(write_volume(tmp_path / "a.nrrd", make_image_hu()), "a")
    write_mask(tmp_path / "m.nii.gz", case.image_hu > 0, case.grid)
    before = (tmp_path / "m.nii.gz").read_bytes()

    def fail(image: sitk.Image, path: str, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(OSError, match=r"m\.nii\.gz"):
        write_mask(tmp_path / "m.nii.gz", case.image_hu < 0, case.grid)
    assert (tmp_path / "m.nii.gz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nrrd", "m.nii.gz"]


def test_a_mask_of_another_size_is_not_written(tmp_path: Path) -> None:
    grid = Grid((7, 6, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(ValueError, match=r"m\.nii\.gz: mask is \(5, 6, 8\)"):
        write_mask(tmp_path / "m.nii.gz", np.zeros((5, 6, 8), bool), grid)
    with pytest.raises(ValueError, match="unknown format; choose from"):
        write_mask(tmp_path / "m.png", np.zeros((5, 6, 7), bool), grid)


def test_a_gzip_file_of_several_members_is_whole(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "a.nii", make_image_hu())
    content = path.read_bytes()
    joined = tmp_path / "b.nii.gz"
    joined.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]))
    np.testing.assert_array_equal(read_volume(joined).array, make_image_hu())


def test_the_canonical_map_depends_on_the_direction_alone() -> None:
    turned = Grid((7, 6, 5), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (0, 1, 0, -1, 0, 0, 0, 0, 1))
    mapping = grid_axis_map(turned)
    assert mapping.to_canonical(np.zeros((5, 6, 7))).shape == (5, 7, 6)


def test_two_positions_in_one_nifti_header_are_noted(tmp_path: Path) -> None:
    affine = np.diag([-0.7, -1.3, 2.9, 1.0])
    for moved_mm, notes in ((0.0, 0), (3.0, 1)):
        image = nib.Nifti1Image(make_image_hu().T, affine)
        image.set_qform(affine, 1)
        sform = affine.copy()
        sform[2, 3] = moved_mm
        image.set_sform(sform, 1)
        nib.save(image, tmp_path / "a.nii.gz")
        found = load_image(tmp_path / "a.nii.gz", "a").notes
        assert len(found) == notes
    assert "3 mm apart (qform and sform)" in found[0]
