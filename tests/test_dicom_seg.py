"""DICOM SEG: voxels, places, codes and references, as other readers find them in the file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Case, DataError, Grid
from data.readers import load_image
from data.readers.volume import canonical_matrix
from engine.dicom_seg import Producer, write_dicom_seg
from tests.dicom_files import AXES, ORIGIN, SERIES, SPACING, stored_values, write_series
from utils.about import NOTICE

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom", reason="highdicom is not installed (requirements-dicom.txt)")

PRODUCER = Producer("0.1.0", parameters={"tumor_fine": "sha256 " + "ab" * 32})
SHAPE = (5, 6, 7)


def masks_of(case: Case) -> dict[str, np.ndarray]:
    """The tumor in the pancreas, in the canonical order."""
    return {"tumor": case.image_hu > 250, "pancreas": case.image_hu > 0}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_each_frame_lies_on_its_slice_whatever_the_direction(
    tmp_path: Path, axes: np.ndarray
) -> None:
    stored = stored_values()
    files = write_series(tmp_path / "ct", stored, axes, order=(3, 0, 4, 1, 2))
    case = load_image(tmp_path / "ct", "a")
    write_dicom_seg(tmp_path / "seg.dcm", masks_of(case), files[::-1], case.grid, PRODUCER)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    uids = [f"{SERIES}.{z + 1}" for z in range(len(stored))]
    pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(pixels[..., 0] > 0, stored > 0)
    np.testing.assert_array_equal(pixels[..., 1] > 0, stored > 250)
    positions = {
        tuple(frame.PlanePositionSequence[0].ImagePositionPatient)
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert positions <= {tuple(pydicom.dcmread(f).ImagePositionPatient) for f in files}


def points(mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """World positions of a mask's voxels, sorted; `matrix` takes (z, y, x, 1)."""
    indices = np.argwhere(mask)
    places = np.column_stack([indices, np.ones(len(indices))]) @ matrix.T
    rounded = places[:, :3].round(3) + 0.0
    return rounded[np.lexsort(rounded.T)]


def zyx(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, [2, 1, 0, 3]]


@pytest.mark.parametrize("name", ["head first, supine", "feet first, supine", "oblique"])
def test_the_world_positions_are_those_of_the_image(tmp_path: Path, name: str) -> None:
    files = write_series(tmp_path / "ct", stored_values(), AXES[name])
    case = load_image(tmp_path / "ct", "a")
    masks = masks_of(case)
    write_dicom_seg(tmp_path / "seg.dcm", masks, files, case.grid, PRODUCER)
    volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume()
    for number, target in enumerate(("pancreas", "tumor")):
        np.testing.assert_allclose(
            points(volume.array[..., number] > 0, volume.affine),
            points(masks[target], zyx(canonical_matrix(case.grid))),
            atol=2e-3,
        )


def test_spacing_is_that_of_the_slices_not_their_thickness(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", stored_values(), changed={"SliceThickness": "5"})
    case = load_image(tmp_path / "ct", "a")
    write_dicom_seg(tmp_path / "seg.dcm", masks_of(case), files, case.grid, PRODUCER)
    (shared,) = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence
    (measures,) = shared.PixelMeasuresSequence
    assert measures.SpacingBetweenSlices == SPACING[0]
    assert measures.SliceThickness == 5
    assert list(measures.PixelSpacing) == list(SPACING[1:])


@pytest.mark.parametrize("thickness", [None, ""])
def test_without_a_thickness_slices_are_as_thick_as_they_are_apart(
    tmp_path: Path, thickness: str | None
) -> None:
    changed = {"SliceThickness": thickness}
    files = write_series(tmp_path / "ct", stored_values(), changed=changed)
    case = load_image(tmp_path / "ct", "a")
    write_dicom_seg(tmp_path / "seg.dcm", masks_of(case), files, case.grid, PRODUCER)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    (shared,) = seg.SharedFunctionalGroupsSequence
    assert shared.PixelMeasuresSequence[0].SliceThickness == SPACING[0]
    pixels = seg.get_pixels_by_source_instance(
        [f"{SERIES}.{z + 1}" for z in range(len(stored_values()))],
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(pixels[..., 0] > 0, stored_values() > 0)


def repaired(tmp_path: Path) -> tuple[list[Path], Grid, dict[str, np.ndarray]]:
    """A tilted series, the rectangular grid it was resampled onto, and masks on that."""
    files = write_series(tmp_path / "ct", stored_values(), tilt_mm=0.5)
    with pytest.raises(DataError, match="gantry was tilted"):
        load_image(tmp_path / "ct", "a")
    x, y, z = ORIGIN
    direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    grid = Grid((7, 9, 6), (0.7, 0.8, 2.5), (x, y - 1.6, z), direction)
    values = stored_values(1, (6, 9, 7))
    return files, grid, {"pancreas": values > 0, "tumor": values > 400}


def test_masks_of_a_resampled_series_have_a_geometry_of_their_own(tmp_path: Path) -> None:
    files, grid, masks = repaired(tmp_path)
    write_dicom_seg(tmp_path / "seg.dcm", masks, files, grid, PRODUCER)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    volume = seg.get_volume()
    for number, target in enumerate(("pancreas", "tumor")):
        np.testing.assert_allclose(
            points(volume.array[..., number] > 0, volume.affine),
            points(masks[target], zyx(canonical_matrix(grid))),
            atol=2e-3,
        )
    assert seg.FrameOfReferenceUID == pydicom.dcmread(files[0]).FrameOfReferenceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES
    assert len(series.ReferencedInstanceSequence) == len(files)
    for frame in seg.PerFrameFunctionalGroupsSequence:  # no frame claims a slice's pixels
        assert len(frame.DerivationImageSequence) == 0


def test_a_grid_of_the_same_size_elsewhere_is_not_that_of_the_slices(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", stored_values())
    case = load_image(tmp_path / "ct", "a")
    x, y, z = case.grid.origin_xyz
    grid = replace(case.grid, origin_xyz=(x, y + 0.8, z))
    write_dicom_seg(tmp_path / "seg.dcm", masks_of(case), files, grid, PRODUCER)
    volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume()
    np.testing.assert_allclose(
        points(volume.array[..., 0] > 0, volume.affine),
        points(masks_of(case)["pancreas"], zyx(canonical_matrix(grid))),
        atol=2e-3,
    )


def test_a_segment_says_what_it_is_and_who_made_it(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", stored_values())
    case = load_image(tmp_path / "ct", "a")
    write_dicom_seg(tmp_path / "seg.dcm", masks_of(case), files, case.grid, PRODUCER)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    pancreas, tumor = seg.SegmentSequence

    def code(sequence: Any) -> tuple[str, str]:
        (item,) = sequence
        return item.CodingSchemeDesignator, item.CodeValue

    assert code(pancreas.SegmentedPropertyTypeCodeSequence) == ("SCT", "15776009")
    assert code(pancreas.SegmentedPropertyCategoryCodeSequence) == ("SCT", "123037004")
    assert code(tumor.SegmentedPropertyTypeCodeSequence) == ("SCT", "108369006")
    assert code(tumor.SegmentedPropertyCategoryCodeSequence) == ("SCT", "49755003")
    assert code(tumor.AnatomicRegionSequence) == ("SCT", "15776009")
    for segment in (pancreas, tumor):
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentAlgorithmName == "dual-task-synergy"
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmVersion == "0.1.0"
        assert "ab" * 32 in str(algorithm.AlgorithmParameters)
    color = hd.color.CIELabColor.from_dicom_value(list(tumor.RecommendedDisplayCIELabValue))
    np.testing.assert_allclose(color.to_rgb(), (60, 120, 255), atol=2)
    assert seg.SoftwareVersions == "0.1.0"
    assert seg.ContentDescription == NOTICE


def test_it_holds_of_the_patient_what_the_standard_needs_and_no_more(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", stored_values())
    case = load_image(tmp_path / "ct", "a")
    write_dicom_seg(tmp_path / "seg.dcm", masks_of(case), files, case.grid, PRODUCER)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert {element.keyword for element in seg if element.tag.group == 0x0010} == {
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
    }
    source = pydicom.dcmread(files[0])
    for name in ("PatientID", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert seg[name].value == source[name].value
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    text = (tmp_path / "seg.dcm").read_bytes()
    for private in (b"a study", b"a hospital", b"a comment", b"055Y"):
        assert private not in text


def test_anonymous_slices_and_empty_masks_are_written(tmp_path: Path) -> None:
    without = dict.fromkeys(("PatientName", "PatientID", "StudyDate", "PatientSex"))
    files = write_series(tmp_path / "ct", stored_values(), changed=without)
    case = load_image(tmp_path / "ct", "a")
    nothing = np.zeros(SHAPE, bool)
    masks = {"pancreas": case.image_hu > 0, "tumor": nothing}
    for given in (masks, {"tumor": nothing}):
        write_dicom_seg(tmp_path / "seg.dcm", given, files, case.grid, PRODUCER)
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        assert seg.PatientID in (None, "")
        uids = [f"{SERIES}.{z + 1}" for z in range(SHAPE[0])]
        pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
        assert pixels.shape[-1] == len(given)
        assert not pixels[..., -1].any()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"FrameOfReferenceUID": None}, "lacks FrameOfReferenceUID"),
        ({"StudyInstanceUID": ""}, "lacks StudyInstanceUID"),
    ],
)
def test_a_series_to_which_nothing_can_refer_is_refused(
    tmp_path: Path, changed: dict[str, object], says: str
) -> None:
    files = write_series(tmp_path / "ct", stored_values(), changed=changed)
    case = load_image(tmp_path / "ct", "a")
    with pytest.raises(DataError, match=says):
        write_dicom_seg(tmp_path / "seg.dcm", masks_of(case), files, case.grid, PRODUCER)
    assert not (tmp_path / "seg.dcm").exists()


def test_wrong_input_is_refused_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(tmp_path / "ct", stored_values())
    case = load_image(tmp_path / "ct", "a")
    path, masks = tmp_path / "seg.dcm", masks_of(case)
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="liver"):
        write_dicom_seg(path, {"liver": masks["tumor"]}, files, case.grid, PRODUCER)
    with pytest.raises(ValueError, match="mask of tumor: mask is"):
        write_dicom_seg(path, {"tumor": masks["tumor"][1:]}, files, case.grid, PRODUCER)
    with pytest.raises(DataError, match="none were given"):
        write_dicom_seg(path, masks, [], case.grid, PRODUCER)
    other = write_series(
        tmp_path / "other", stored_values(2)[:1], changed={"SeriesInstanceUID": "1.2.3"}
    )
    with pytest.raises(DataError, match="2 values of SeriesInstanceUID"):
        write_dicom_seg(path, masks, [*files[1:], *other], case.grid, PRODUCER)
    (tmp_path / "text").write_text("no DICOM")
    with pytest.raises(DataError, match="cannot be read"):
        write_dicom_seg(path, masks, [tmp_path / "text"], case.grid, PRODUCER)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(DataError, match="pip install -r requirements-dicom"):
        write_dicom_seg(path, masks, files, case.grid, PRODUCER)
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


def tool(name: str) -> str:
    """A program on the path, or beside this Python; the test is skipped without it."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("kind", ["on its slices", "resampled"])
def test_dciodvfy_finds_no_error(tmp_path: Path, kind: str) -> None:
    program = tool("dciodvfy")  # Debian's package dicom3tools
    if kind == "resampled":
        files, grid, masks = repaired(tmp_path)
    else:
        files = write_series(tmp_path / "ct", stored_values())
        case = load_image(tmp_path / "ct", "a")
        grid, masks = case.grid, masks_of(case)
    path = tmp_path / "seg.dcm"
    write_dicom_seg(path, masks, files, grid, PRODUCER)
    said = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    assert "Error" not in said.stdout + said.stderr, said.stderr
    assert "Segmentation" in said.stdout + said.stderr


@pytest.mark.parametrize("name", [*AXES, "resampled"])
def test_dcmqi_finds_the_same_voxels(tmp_path: Path, name: str) -> None:
    program = tool("segimage2itkimage")  # pip install dcmqi
    if name == "resampled":
        files, grid, masks = repaired(tmp_path)
    else:
        files = write_series(tmp_path / "ct", stored_values(), AXES[name], order=(3, 0, 4, 1, 2))
        case = load_image(tmp_path / "ct", "a")
        grid, masks = case.grid, masks_of(case)
    write_dicom_seg(tmp_path / "seg.dcm", masks, files, grid, PRODUCER)
    (tmp_path / "out").mkdir()
    given = ["--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path / "out")]
    subprocess.run([program, *given], capture_output=True, check=True)
    for number, target in enumerate(("pancreas", "tumor"), 1):
        image = sitk.ReadImage(str(tmp_path / "out" / f"{number}.nrrd"))
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        matrix[:3, 3] = image.GetOrigin()
        found = points(sitk.GetArrayFromImage(image) > 0, zyx(matrix))
        expected = points(masks[target], zyx(canonical_matrix(grid)))
        np.testing.assert_allclose(found, expected, atol=2e-3)
