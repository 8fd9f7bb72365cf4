"""Hounsfield units or not: by the histogram of a body, with and without air, label and padding."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.bench_values import CHANGES, judge, list_views
from data.case import Center, DataError
from data.centers import load_centers
from data.phantom.centers import CENTERS
from data.phantom.generate import make_phantom
from data.readers import list_cases, load_case, load_image
from data.readers.values import MIN_VOXELS, sample_values, suspect_values, to_hu
from tests.volumes import make_image_hu, to_image, write_volume

RIGHT = ("as it is", "cut off at -160 and 240")
WITH_CURE = ("1024 too high", "1024 too low", "doubled", "halved")


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    """int16 HU of one scanner's demo case."""
    return make_phantom("SYN-B", 0, "demo", 7).image_hu


@pytest.mark.parametrize("name", CENTERS)
def test_the_values_of_every_scanner_pass_and_changed_ones_are_refused(name: str) -> None:
    image = make_phantom(name, 1, "demo", 3).image_hu[::2].astype(np.float32)
    for change_name, change in CHANGES.items():
        expected = "refused, right cure" if change_name in WITH_CURE else "refused"
        expected = "passed" if change_name in RIGHT else expected
        assert judge(image, change, None) == expected, change_name


@pytest.mark.parametrize("padding", [-3024, -2048, -1024, 0])
@pytest.mark.parametrize("view", [1, 2])
def test_neither_padding_nor_a_crop_hides_them(padding: int, view: int) -> None:
    made = make_phantom("SYN-C", 0, "demo", 7)
    found = np.nonzero(made.label)
    box = tuple(slice(max(0, int(i.min()) - 3), int(i.max()) + 4) for i in found)
    views = list(list_views(made.image_hu.astype(np.float32), box, np.random.default_rng(0)))
    for change_name, change in CHANGES.items():
        expected = "passed" if change_name in RIGHT else "refused"
        assert judge(views[view], change, padding).startswith(expected), change_name


def test_metal_and_a_network_window_in_hu_pass(phantom: np.ndarray) -> None:
    metal = phantom.astype(np.float32)
    metal[20:24, 50:55, 60:66] = 30000
    for image in (metal, phantom.clip(-100, 240), np.where(phantom < -300, 0, phantom)):
        assert suspect_values(sample_values(image)) is None


def test_what_is_no_body_is_a_suspicion_without_certainty(phantom: np.ndarray) -> None:
    found = suspect_values(sample_values(phantom + np.int16(500)))
    assert found is not None
    assert not found.certain
    assert found.repair is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hu: -hu, "above 700, denser"),
        (lambda hu: 2 * hu - 1024, "above 700, denser|below -1250, darker"),
        (lambda hu: 10 * hu, "above 700, denser|below -1250, darker"),
        (lambda hu: 1e30 * hu, "above 700, denser|below -1250, darker"),
        (lambda hu: (hu.clip(-1000, 500) + 1000) * 43.69, "above 700, denser"),  # all of uint16
    ],
)
def test_what_no_body_can_be_is_certain_and_has_no_cure(
    phantom: np.ndarray, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    found = suspect_values(sample_values(change(phantom.astype(np.float64)).astype(np.float32)))
    assert found is not None
    assert found.certain
    assert found.repair is None
    assert re.search(words, found.cause)


def test_half_again_as_much_is_not_cured_by_halving(phantom: np.ndarray) -> None:
    found = suspect_values(sample_values(phantom * np.float32(1.5)))
    assert found is not None
    assert found.repair is None


@pytest.mark.parametrize(
    ("window", "words"), [((-160, 240), "cut off to a window,"), ((-50, 150), "is narrower than")]
)
def test_a_window_in_hounsfield_units_is_noted(
    tmp_path: Path, phantom: np.ndarray, window: tuple[int, int], words: str
) -> None:
    path = write_volume(tmp_path / "a.nii.gz", phantom.clip(*window))
    (note,) = load_image(path, "a").notes
    assert f"no voxel is below -200 HU (values from {window[0]} to {window[1]})" in note
    assert words in note
    assert load_image(write_volume(tmp_path / "b.nii.gz", phantom), "b").notes == ()


def test_too_few_voxels_are_not_judged() -> None:
    assert suspect_values(np.zeros(MIN_VOXELS - 1, np.float32)) is None


def center_of(tmp_path: Path, image: np.ndarray, **keys: float) -> Center:
    write_volume(tmp_path / "images" / "a.nii.gz", to_image(image))
    return Center("C", "folder", tmp_path, **keys)  # type: ignore[arg-type]


def test_the_message_names_the_keys_that_cure_it_and_they_do(
    tmp_path: Path, phantom: np.ndarray
) -> None:
    doubled = 2 * (phantom + 1024)
    center = center_of(tmp_path, doubled.astype(np.int16))
    with pytest.raises(DataError) as error:
        load_case(center, list_cases(center)[0])
    assert "C/a: " in str(error.value)
    assert "twice as large as they should be and about 1024 too high" in str(error.value)
    assert "set hu_scale = 0.5 and hu_offset = -1024" in str(error.value)
    cured = center_of(tmp_path, doubled.astype(np.int16), hu_scale=0.5, hu_offset=-1024)
    np.testing.assert_array_equal(load_case(cured, list_cases(cured)[0]).image_hu, phantom)
    case = load_image(tmp_path / "images" / "a.nii.gz", "a", rescale=(0.5, -1024))
    np.testing.assert_array_equal(case.image_hu, phantom)


def test_prediction_refuses_the_same_as_training(tmp_path: Path, phantom: np.ndarray) -> None:
    center = center_of(tmp_path, (phantom + 1024).astype(np.int16))
    with pytest.raises(DataError) as training:
        load_case(center, list_cases(center)[0])
    with pytest.raises(DataError) as prediction:
        load_image(tmp_path / "images" / "a.nii.gz", "a")
    assert str(training.value) == f"C/a: {prediction.value}"


def test_the_keys_are_read_from_the_centers_file(tmp_path: Path) -> None:
    path = tmp_path / "centers.toml"
    head = '[centers.A]\nreader = "folder"\npath = "d"\n'
    path.write_text(f"{head}hu_offset = -1024\nhu_scale = 0.5\n")
    center = load_centers(path)["A"]
    assert (center.hu_scale, center.hu_offset) == (0.5, -1024)
    for wrong in ("hu_scale = 0", "hu_scale = -1", "hu_scale = true", 'hu_offset = "x"'):
        path.write_text(f"{head}{wrong}\n")
        with pytest.raises(DataError, match=f"{wrong.split(' =')[0]}: .* is not a number"):
            load_centers(path)
    for endless in ("hu_offset = nan", "hu_offset = inf", "hu_scale = inf", "hu_scale = nan"):
        path.write_text(f"{head}{endless}\n")
        with pytest.raises(DataError, match="is not a number"):
            load_centers(path)


def test_padding_is_noted_with_its_share(tmp_path: Path, phantom: np.ndarray) -> None:
    padded = phantom.copy()
    padded[:, :8] = -2000
    case = load_image(write_volume(tmp_path / "a.nii.gz", padded), "a")
    share = 100 * 8 / phantom.shape[1]
    assert case.notes == (f"{share:.1f} % of its voxels are padding (-2000); read as -1024 HU",)
    assert (case.image_hu[:, :8] == -1024).all()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_missing_values_outside_the_body_are_air_and_many_inside_are_refused(
    tmp_path: Path, phantom: np.ndarray, suffix: str
) -> None:
    image = phantom.astype(np.float32)
    image[:, :4], image[:, :, -3:] = np.nan, np.inf
    missing = np.count_nonzero(~np.isfinite(image))
    case = load_image(write_volume(tmp_path / f"a{suffix}", image), "a")
    assert case.notes[0].startswith(f"{missing} voxels are not a number")
    assert (case.image_hu[:, :4] == -1024).all()
    np.testing.assert_array_equal(case.image_hu[:, 4:, :-3], phantom[:, 4:, :-3])
    z, y, x = (n // 2 for n in phantom.shape)
    image[z - 4 : z + 4, y - 6 : y + 6, x - 6 : x + 6] = np.nan
    with pytest.raises(DataError, match=r"voxels are not a number .* inside the body"):
        load_image(write_volume(tmp_path / f"a{suffix}", image), "a")


def test_whole_slices_without_values_are_refused(phantom: np.ndarray) -> None:
    image = phantom.astype(np.float32)
    image[20:23] = np.nan
    with pytest.raises(DataError, match="inside the body"):
        to_hu(image, Path("a.nii"))
    with pytest.raises(DataError, match="no voxel is a number"):
        to_hu(np.full((12, 50, 50), np.nan, np.float32), Path("a.nii"))


def test_values_are_converted_without_a_wide_copy() -> None:
    image = make_image_hu()
    stored = image.copy()
    image_hu, _ = to_hu(stored, Path("a.nii"))
    assert image_hu is stored  # in place
    for kind in (np.float32, np.int32, np.float64):
        image_hu, _ = to_hu(image.astype(kind), Path("a.nii"))
        np.testing.assert_array_equal(image_hu, image)
        assert image_hu.dtype == np.int16


@pytest.mark.slow
def test_real_scans_pass_whole_cropped_and_padded() -> None:
    folder = os.environ.get("REAL_CT_DIR")
    if not folder:
        pytest.skip("REAL_CT_DIR names no real CT")
    scans = sorted(Path(folder).rglob("*_ct.nii.gz"))
    assert scans
    for path in scans:
        image = np.asarray(nib.load(path).dataobj, np.float32).T  # type: ignore[attr-defined]
        middle = tuple(slice(n // 4, -(n // 4)) for n in image.shape)
        views = list_views(image, middle, np.random.default_rng(0))
        for view in (next(views), next(views), next(views)):
            for padding in (-3024, -2048):
                for name, change in CHANGES.items():
                    expected = "passed" if name in RIGHT else "refused"
                    assert judge(view, change, padding).startswith(expected), (path.name, name)
