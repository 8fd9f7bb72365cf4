"""DICOM slices: what a volume needs of them, and the cause where one thing of it is missing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import DataError
from data.readers import load_image
from tests.volumes import make_image_hu

COUNT, SHAPE = 9, (9, 6, 7)
IMAGE_HU = make_image_hu(shape=SHAPE)
AXIAL = "1\\0\\0\\0\\1\\0"


def write_series(folder: Path, **per_slice: object) -> list[Path]:
    """A CT series; `per_slice`: keyword -> value of a tag, or a function of the slice's number."""
    keywords = {
        "position": "0020|0032",
        "orientation": "0020|0037",
        "instance": "0020|0013",
        "acquisition": "0020|0012",
        "current": "0018|1151",
        "in_acquisition": "0020|1002",
        "modality": "0008|0060",
        "series": "0020|000e",
    }
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    files = []
    for z in range(COUNT):
        values = {
            "position": f"-10\\-20\\{-300 + 2.5 * z}",
            "orientation": AXIAL,
            "instance": str(z + 1),
            "modality": "CT",
            "series": "1.2.3.4",
        }
        given = {k: v(z) if callable(v) else v for k, v in per_slice.items()}
        spacing = given.pop("spacing", (0.7, 0.9))
        plane = given.pop("plane", IMAGE_HU[z])
        name = given.pop("name", f"{z:03d}.dcm")
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing(spacing)
        for key, value in (values | given).items():
            image.SetMetaData(keywords[key], str(value))
        image.SetMetaData("0020|000d", "1.2.3")
        image.SetMetaData("0008|0018", f"1.2.3.4.{abs(hash((name, z))) % 10**6}")
        image.SetMetaData("0028|1052", "0")
        image.SetMetaData("0028|1053", "1")
        files.append(folder / str(name))
        writer.SetFileName(str(files[-1]))
        writer.Execute(image)
    return files


def patch(file: Path, group: int, element: int, value: bytes | None) -> None:
    """Overwrite a tag's value with one that is no longer, or make it an unknown tag (None)."""
    content = file.read_bytes()
    place = content.index(group.to_bytes(2, "little") + element.to_bytes(2, "little"))
    if value is None:
        renamed = group.to_bytes(2, "little") + (element + 1).to_bytes(2, "little")
        file.write_bytes(content[:place] + renamed + content[place + 4 :])
        return
    length = int.from_bytes(content[place + 4 : place + 8], "little")  # implicit: no type between
    start = place + 8
    assert len(value) <= length
    file.write_bytes(content[:start] + value.ljust(length) + content[start + length :])


def read(folder: Path) -> np.ndarray:
    return load_image(folder, "a").image_hu


def refuse(folder: Path, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_image(folder, "a")


def test_positions_alone_give_order_and_distance(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(COUNT)
    write_series(tmp_path / "a", name=lambda z: f"{order[z]}.dcm", instance=lambda z: order[z] + 1)
    case = load_image(tmp_path / "a", "a")
    np.testing.assert_array_equal(case.image_hu, IMAGE_HU)
    assert case.spacing == pytest.approx((2.5, 0.9, 0.7))
    assert case.grid.origin_xyz == (-10, -20, -300)
    assert case.notes == ()


def test_the_grid_is_that_of_simpleitks_series_reader(tmp_path: Path) -> None:
    turn = np.deg2rad(20)
    x, y = (np.cos(turn), np.sin(turn), 0.0), (-np.sin(turn), np.cos(turn), 0.0)
    written = "\\".join(f"{cosine:.12f}" for cosine in (*x, *y))
    files = write_series(tmp_path / "a", orientation=written)
    expected = sitk.ReadImage([str(file) for file in files])
    grid = load_image(tmp_path / "a", "a").grid
    assert grid.size_xyz == expected.GetSize()
    assert grid.spacing_xyz == pytest.approx(expected.GetSpacing())
    assert grid.origin_xyz == pytest.approx(expected.GetOrigin())
    assert grid.direction == pytest.approx(expected.GetDirection(), abs=1e-6)


def test_each_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a")
    for z in (2, 5, 6):
        patch(files[z], 0x0028, 0x1053, b".5")
    patch(files[7], 0x0028, 0x1052, b"9")
    expected = IMAGE_HU.astype(float)
    expected[[2, 5, 6]] *= 0.5
    expected[7] += 9
    np.testing.assert_array_equal(read(tmp_path / "a"), np.rint(expected))


def test_rounded_positions_keep_the_usual_distance(tmp_path: Path) -> None:
    write_series(tmp_path / "a", position=lambda z: f"-10\\-20\\{-300 + 2.5 * z + 0.1 * (z % 2)}")
    assert load_image(tmp_path / "a", "a").spacing[0] == pytest.approx(2.5, abs=0.01)


@pytest.mark.parametrize(
    ("element", "name"),
    [(0x0032, "position"), (0x0037, "orientation")],
)
def test_slices_without_place_are_refused(tmp_path: Path, element: int, name: str) -> None:
    files = write_series(tmp_path / "a")
    patch(files[3], 0x0020, element, b"")
    refuse(tmp_path / "a", rf"003\.dcm: has no {name} \(Image.*export the series again")
    patch(files[3], 0x0020, element, None)
    refuse(tmp_path / "a", rf"003\.dcm: has no {name}")
    files = write_series(tmp_path / "b")
    patch(files[0], 0x0020, element, b"1\\2")
    refuse(tmp_path / "b", rf"000\.dcm: its {name} .* is '1\\\\2', not [36] numbers")


def test_slices_without_pixel_spacing_are_refused(tmp_path: Path) -> None:
    for value in (None, b""):
        files = write_series(tmp_path / "a")
        patch(files[3], 0x0028, 0x0030, value)
        refuse(tmp_path / "a", r"003\.dcm: has no pixel spacing")


def test_what_changes_within_a_series_is_named(tmp_path: Path) -> None:
    turned = "0.9998\\0.02\\0\\-0.02\\0.9998\\0"
    changes: dict[str, dict[str, object]] = {
        "orientation changes within the series, in 1 of 9 slices (008.dcm: ": {
            "orientation": lambda z: turned if z == 8 else AXIAL
        },
        "pixel spacing changes within the series, in 4 of 9 slices (005.dcm: 0.8\\0.8,": {
            "spacing": lambda z: (0.8, 0.8) if z > 4 else (0.7, 0.7)
        },
        "size changes within the series, in 1 of 9 slices (002.dcm: 6\\6, usually 7\\6)": {
            "plane": lambda z: IMAGE_HU[z, :, :6] if z == 2 else IMAGE_HU[z]
        },
    }
    for number, (words, change) in enumerate(changes.items()):
        write_series(tmp_path / str(number), **change)
        refuse(tmp_path / str(number), re.escape(words))


@pytest.mark.parametrize("moved", [(3, 4, 5), (8,), (0,), (5, 6, 7, 8)])
def test_slices_shifted_sideways_are_refused(tmp_path: Path, moved: tuple[int, ...]) -> None:
    def position(z: int) -> str:
        return f"{-10 + 12 * (z in moved)}\\-20\\{-300 + 2.5 * z}"

    write_series(tmp_path / "a", position=position)
    refuse(tmp_path / "a", rf"{len(moved)} of 9 slices are shifted sideways, .* by 12 mm")


@pytest.mark.parametrize("degrees", [0.3, 0.9, 1.5, 12.0])
def test_a_tilted_gantry_is_noted_with_its_millimeters_or_refused(
    tmp_path: Path, degrees: float
) -> None:
    slope = np.tan(np.deg2rad(degrees))
    write_series(
        tmp_path / "a", position=lambda z: f"-10\\{-20 + slope * 2.5 * z:.8f}\\{-300 + 2.5 * z}"
    )
    if degrees > 1:
        refuse(tmp_path / "a", rf"gantry was tilted by {degrees:.1f} degrees, .* sheared; resample")
        return
    (note,) = load_image(tmp_path / "a", "a").notes
    assert f"tilted by {degrees:g} degrees: over its 20 mm" in note
    assert f"sideways by {slope * 20:.2g} mm" in note


@pytest.mark.parametrize("missing", [0, 4, 8])
@pytest.mark.parametrize("how", ["empty", "cut", "text"])
def test_a_file_that_should_be_a_slice_and_is_none_is_a_missing_slice(
    tmp_path: Path, missing: int, how: str
) -> None:
    files = write_series(tmp_path / "a")
    content = files[missing].read_bytes()
    kept = {"empty": b"", "cut": content[: len(content) - 20], "text": b"404: not found"}[how]
    files[missing].write_bytes(kept)
    cause = r"is empty \(0 bytes\)" if how == "empty" else "is cut short or corrupt"
    refuse(tmp_path / "a", rf"00{missing}\.dcm: {cause}, so a slice of its series is missing")


def test_other_files_beside_the_slices_are_ignored(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    (tmp_path / "a" / "readme.txt").write_text("x")
    (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(60))
    (tmp_path / "a" / "._000.dcm").write_bytes(b"Mac OS X")
    report = bytes(128) + b"DICM" + b"1.2.840.10008.5.1.4.1.1.88.22"
    (tmp_path / "a" / "report.dcm").write_bytes(report)
    np.testing.assert_array_equal(read(tmp_path / "a"), IMAGE_HU)


def test_an_end_that_is_missing_is_noted_where_the_tags_tell(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", in_acquisition=9)
    assert load_image(tmp_path / "a", "a").notes == ()
    files[8].unlink()
    (note,) = load_image(tmp_path / "a", "a").notes
    assert "has 9 images (ImagesInAcquisition), 8 are here" in note


def test_two_phases_in_one_series_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "a", acquisition=1)
    write_series(tmp_path / "a", acquisition=2, name=lambda z: f"late{z}.dcm")
    refuse(
        tmp_path / "a",
        r"2 images at each of 9 positions: several phases .*\(AcquisitionNumber 1, 2\); keep",
    )


def test_one_slice_twice_is_named(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a")
    copy = files[4].read_bytes()
    (tmp_path / "a" / "copy.dcm").write_bytes(copy)
    refuse(tmp_path / "a", r"(004|copy)\.dcm and .*\.dcm are one image, copied, as are 1 of 10")
    (tmp_path / "a" / "copy.dcm").write_bytes(copy.replace(b"1.2.3.4.", b"1.2.3.5."))
    refuse(tmp_path / "a", r"slices 5 and 6 \((004|copy)\.dcm and .*at one position: one is a dup")


def test_acquisitions_that_alternate_are_no_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "a", acquisition=lambda z: 1 + z % 2)
    refuse(tmp_path / "a", r"slices of 2 acquisitions alternate \(AcquisitionNumber 1, 2\)")
    write_series(tmp_path / "b", acquisition=lambda z: 1 + z // 3)  # blocks, as a scanner makes
    assert read(tmp_path / "b").shape == SHAPE


def test_positions_that_are_all_one_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "a", position="-10\\-20\\-300")
    refuse(tmp_path / "a", r"all 9 slices have the position -10\\-20\\-300 \(ImagePosition")


def test_a_broken_link_is_a_missing_slice(tmp_path: Path) -> None:
    *_, last = write_series(tmp_path / "a")
    last.unlink()
    last.symlink_to(tmp_path / "gone")
    refuse(tmp_path / "a", r"008\.dcm: is a link to .*gone, which does not exist, so a slice may")


@pytest.mark.parametrize("content", [b"", bytes(500)])
def test_a_last_slice_without_suffix_that_is_empty_is_a_missing_slice(
    tmp_path: Path, content: bytes
) -> None:
    *_, last = write_series(tmp_path / "a", name=lambda z: f"IM{z:03d}.dcm")
    for file in (tmp_path / "a").iterdir():
        file.rename(file.with_suffix(""))
    (tmp_path / "a" / "LICENSE").write_text("text is no slice")
    assert read(tmp_path / "a").shape == SHAPE
    last.with_suffix("").write_bytes(content)
    refuse(tmp_path / "a", r"IM008: is (empty|cut short or corrupt).*a slice of its series is miss")


def test_rescaling_that_some_slices_lack_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a")
    patch(files[3], 0x0028, 0x1052, None)
    refuse(tmp_path / "a", r"RescaleIntercept is missing in 1 of 9 slices \(003\.dcm\)")


def test_multi_frame_files_are_refused_by_cause(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    image = sitk.GetImageFromArray((IMAGE_HU + 1024).astype(np.uint16))
    sitk.WriteImage(image, str(tmp_path / "a" / "all.dcm"))
    refuse(tmp_path / "a", r"all\.dcm: holds 9 frames in one file \(multi-frame DICOM\)")


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    for file in write_series(tmp_path / "a")[1:]:
        file.unlink()
    refuse(tmp_path / "a", "is one slice, not a volume; give the whole series")


def test_gray_scales_inverted_for_display_are_read_as_stored(tmp_path: Path) -> None:
    for file in write_series(tmp_path / "a"):
        patch(file, 0x0028, 0x0004, b"MONOCHROME1")
    case = load_image(tmp_path / "a", "a")
    np.testing.assert_array_equal(case.image_hu, IMAGE_HU)
    assert "MONOCHROME1" in case.notes[0]


def test_what_is_unusual_in_tags_is_noted_and_never_fatal(tmp_path: Path) -> None:
    for file in write_series(tmp_path / "a", modality="MR", current="210,5"):
        patch(file, 0x0028, 0x1053, None)
    case = load_image(tmp_path / "a", "a")
    assert case.acquisition["tube_current_ma"] == "210"
    assert [note for note in case.notes if "its modality is MR, not CT" in note]
    assert [note for note in case.notes if "RescaleSlope and RescaleIntercept are missing" in note]
    write_series(tmp_path / "b", current="unknown")
    assert "tube_current_ma" not in load_image(tmp_path / "b", "b").acquisition
