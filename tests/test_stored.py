"""MetaImage and NRRD: every byte of the voxels is there, in the header's own folder."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import DataError
from data.prepare.data_files import files_of
from data.readers import load_image
from data.readers.volume import read_volume
from tests.volumes import ORIGIN_XYZ, make_image_hu, to_image

SHAPE = (10, 12, 14)
IMAGE_HU = make_image_hu(shape=SHAPE)
RAW = IMAGE_HU.tobytes()
METAIMAGE = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
{extra}TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 0.7 1.3 2.9
DimSize = 14 12 10
ElementType = MET_SHORT
ElementDataFile = {data}
"""
NRRD = """NRRD0004
# a comment
type: int16
dimension: 3
space: left-posterior-superior
sizes: 14 12 10
space directions: (0.7,0,0) (0,1.3,0) (0,0,2.9)
endian: little
encoding: {encoding}
space origin: (0,0,0)
{extra}"""


def metaimage(path: Path, data: str, extra: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(METAIMAGE.format(data=data, extra=extra))
    return path


def nrrd(path: Path, encoding: str, extra: str = "", voxels: bytes | None = None) -> Path:
    """`voxels` follow the header; without them it is to name a data file in `extra`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = NRRD.format(encoding=encoding, extra=extra).encode()
    path.write_bytes(head + (b"" if voxels is None else b"\n" + voxels))
    return path


def write_all_kinds(folder: Path) -> dict[str, Path]:
    """Compressed files of every kind: name -> the file that holds the voxels."""
    packed = {"gzip": gzip.compress(RAW), "zlib": zlib.compress(RAW)}
    for name, content in packed.items():
        (folder / f"voxels.{name}").write_bytes(content)
    sitk.WriteImage(to_image(IMAGE_HU), str(folder / "a.mha"), useCompression=True)
    sitk.WriteImage(to_image(IMAGE_HU), str(folder / "b.mhd"), useCompression=True)
    sitk.WriteImage(to_image(IMAGE_HU), str(folder / "c.nrrd"), useCompression=True)
    nrrd(folder / "d.nhdr", "gzip", "data file: voxels.gzip\n")
    nrrd(folder / "e.nrrd", "gz", voxels=packed["gzip"])
    metaimage(folder / "f.mhd", "voxels.zlib", "CompressedData = True\n")
    held = {"b.mhd": "b.zraw", "d.nhdr": "voxels.gzip", "f.mhd": "voxels.zlib"}
    return {name: folder / held.get(name, name) for name in KINDS}


KINDS = ("a.mha", "b.mhd", "c.nrrd", "d.nhdr", "e.nrrd", "f.mhd")


@pytest.mark.parametrize("name", KINDS)
def test_whole_compressed_files_are_read(tmp_path: Path, name: str) -> None:
    held = write_all_kinds(tmp_path)[name]
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, IMAGE_HU)
    assert volume.grid.spacing_xyz == pytest.approx((0.7, 1.3, 2.9))
    assert files_of(tmp_path / name) == sorted({tmp_path / name, held})


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fault", ["one byte", "zeros", "cut"])
def test_damage_anywhere_in_compressed_voxels_is_refused(
    tmp_path: Path, name: str, fault: str
) -> None:
    held = write_all_kinds(tmp_path)[name]
    content = held.read_bytes()
    packed = len(content) if held.name != name else len(content) - content.rfind(b"\n\n") - 2
    first = max(len(content) - min(packed, 1500), 400 if held.name == name else 12)
    for start in np.linspace(first, len(content) - 6, 12).astype(int):
        changed = bytearray(content)
        if fault == "one byte":
            changed[start] ^= 85
        elif fault == "zeros":
            changed[start : start + 150] = bytes(len(changed[start : start + 150]))
        else:
            del changed[start:]
        held.write_bytes(changed)
        with pytest.raises(DataError, match=rf"{name}: .*cut short or corrupt"):
            read_volume(tmp_path / name)


def test_compressed_voxels_of_another_size_than_the_headers_are_refused(tmp_path: Path) -> None:
    for short, words in ((RAW[:-28], "cut short"), (RAW + RAW[:28], "longer than the header")):
        (tmp_path / "v.z").write_bytes(zlib.compress(short))
        metaimage(tmp_path / "a.mhd", "v.z", "CompressedData = True\n")
        nrrd(tmp_path / "a.nrrd", "gzip", voxels=gzip.compress(short))
        for name in ("a.mhd", "a.nrrd"):
            with pytest.raises(DataError, match=f"{name}: .*{words}"):
                read_volume(tmp_path / name)


def test_raw_voxels_are_as_long_as_the_header_says(tmp_path: Path) -> None:
    for voxels, words in ((RAW, None), (RAW[:-2], "cut short"), (RAW + b"\0\0", "longer than")):
        (tmp_path / "v.raw").write_bytes(voxels)
        metaimage(tmp_path / "a.mhd", "v.raw")
        nrrd(tmp_path / "a.nrrd", "raw", voxels=voxels)
        nrrd(tmp_path / "a.nhdr", "raw", "data file: v.raw\n")
        path = metaimage(tmp_path / "a.mha", "LOCAL")
        path.write_bytes(path.read_bytes() + voxels)
        for name in ("a.mhd", "a.nrrd", "a.nhdr", "a.mha"):
            if words is None:
                np.testing.assert_array_equal(read_volume(tmp_path / name).array, IMAGE_HU)
                continue
            with pytest.raises(DataError, match=f"{name}: .*{words}"):
                read_volume(tmp_path / name)


def test_what_precedes_raw_voxels_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "v.raw").write_bytes(b"a line\n" + b"12345" + RAW)
    metaimage(tmp_path / "a.mhd", "v.raw", "HeaderSize = 12\n")
    metaimage(tmp_path / "b.mhd", "v.raw", "HeaderSize = -1\n")
    nrrd(tmp_path / "c.nhdr", "raw", "line skip: 1\nbyte skip: 5\ndata file: v.raw\n")
    nrrd(tmp_path / "d.nhdr", "raw", "byte skip: -1\ndata file: v.raw\n")
    for name in ("a.mhd", "b.mhd", "c.nhdr", "d.nhdr"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, IMAGE_HU)


def test_a_file_per_slice_is_checked_file_by_file(tmp_path: Path) -> None:
    names = [f"s{z:02d}.raw" for z in range(10)]
    for name, plane in zip(names, IMAGE_HU, strict=True):
        (tmp_path / name).write_bytes(plane.tobytes())
    listed = "\n".join(names)
    metaimage(tmp_path / "a.mhd", f"LIST\n{listed}")
    metaimage(tmp_path / "b.mhd", "s%02d.raw 0 9 1")
    nrrd(tmp_path / "c.nhdr", "raw", f"data file: LIST\n{listed}\n")
    nrrd(tmp_path / "d.nhdr", "raw", "data file: s%02d.raw 0 9 1\n")
    for name in ("a.mhd", "b.mhd", "c.nhdr", "d.nhdr"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, IMAGE_HU)
        assert len(files_of(tmp_path / name)) == 11
    (tmp_path / names[4]).write_bytes(IMAGE_HU[4].tobytes()[:-1])
    for name in ("a.mhd", "b.mhd", "c.nhdr", "d.nhdr"):
        with pytest.raises(DataError, match=rf"{name}: its data file s04\.raw is cut short"):
            read_volume(tmp_path / name)
    (tmp_path / names[4]).unlink()
    with pytest.raises(DataError, match=r"a\.mhd: its data file s04\.raw is missing"):
        read_volume(tmp_path / "a.mhd")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "sub/../../secret.raw", "."])
def test_a_data_file_outside_the_headers_folder_is_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.raw").write_bytes(RAW)
    metaimage(tmp_path / "data" / "a.mhd", name)
    metaimage(tmp_path / "data" / "b.mhd", f"LIST\n{name}")
    nrrd(tmp_path / "data" / "c.nhdr", "raw", f"data file: {name}\n")
    nrrd(tmp_path / "data" / "d.nhdr", "raw", f"data file: LIST\n{name}\n")
    for header in ("a.mhd", "b.mhd", "c.nhdr", "d.nhdr"):
        with pytest.raises(DataError, match=rf"{header}: .*data file .*, which is outside its fo"):
            read_volume(tmp_path / "data" / header)


def test_a_data_file_in_a_folder_below_is_read(tmp_path: Path) -> None:
    (tmp_path / "voxels").mkdir()
    (tmp_path / "voxels" / "v.raw").write_bytes(RAW)
    path = metaimage(tmp_path / "a.mhd", "voxels/v.raw")
    np.testing.assert_array_equal(read_volume(path).array, IMAGE_HU)
    assert files_of(path) == [path, tmp_path / "voxels" / "v.raw"]


def test_headers_without_voxel_size_are_refused_and_without_orientation_noted(
    tmp_path: Path,
) -> None:
    (tmp_path / "v.raw").write_bytes(RAW)
    path = metaimage(tmp_path / "a.mhd", "v.raw")
    text = path.read_text()
    path.write_text(text.replace("TransformMatrix = 1 0 0 0 1 0 0 0 1\n", ""))
    assert "gives no orientation (TransformMatrix)" in load_image(path, "a").notes[0]
    path.write_text(text.replace("ElementSpacing = 0.7 1.3 2.9\n", ""))
    with pytest.raises(DataError, match="gives no voxel size"):
        load_image(path, "a")
    path = nrrd(tmp_path / "a.nrrd", "raw", voxels=RAW)
    content = path.read_bytes()
    directions = b"space directions: (0.7,0,0) (0,1.3,0) (0,0,2.9)\n"
    place = b"space: left-posterior-superior\n" + b"sizes: 14 12 10\n" + directions
    bare = content.replace(b"space origin: (0,0,0)\n", b"")
    path.write_bytes(bare.replace(place, b"sizes: 14 12 10\nspacings: 0.7 1.3 2.9\n"))
    case = load_image(path, "a")
    assert case.spacing == pytest.approx((2.9, 1.3, 0.7))
    assert "gives no orientation (space)" in case.notes[0]
    path.write_bytes(bare.replace(place, b"sizes: 14 12 10\n"))
    with pytest.raises(DataError, match="gives no voxel size"):
        load_image(path, "a")
    path.write_bytes(content.replace(directions, directions + b'space units: "m" "m" "m"\n'))
    with pytest.raises(DataError, match="its lengths are in m, not mm"):
        load_image(path, "a")


def test_encodings_that_are_not_read_are_refused(tmp_path: Path) -> None:
    for encoding in ("ascii", "bzip2"):
        path = nrrd(tmp_path / "a.nrrd", encoding, voxels=b"1 2 3")
        with pytest.raises(DataError, match=f"stored as '{encoding}'; write it again"):
            read_volume(path)
    path = metaimage(tmp_path / "a.mhd", "v.txt")
    path.write_text(path.read_text().replace("BinaryData = True", "BinaryData = False"))
    with pytest.raises(DataError, match="holds its voxels as text"):
        read_volume(path)


def test_a_segmentation_of_layers_is_refused_by_cause(tmp_path: Path) -> None:
    layers = sitk.Compose(*[to_image((n < IMAGE_HU).astype(np.uint8)) for n in (0, 1)])
    assert layers.GetOrigin() == pytest.approx(ORIGIN_XYZ)
    sitk.WriteImage(layers, str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(DataError, match=r"a segmentation of 2 layers .*; export it there as one"):
        read_volume(tmp_path / "a.seg.nrrd")


@pytest.mark.parametrize("spacing", ["-0.7 1.3 2.9", "0.7 0 2.9", "0.7 1.3 nan"])
def test_a_spacing_that_no_image_has_is_refused_and_not_mirrored(
    tmp_path: Path, spacing: str
) -> None:
    path = tmp_path / "a.mha"
    head = METAIMAGE.format(data="LOCAL", extra="").replace("0.7 1.3 2.9", spacing)
    path.write_bytes(head.encode() + RAW)
    with pytest.raises(
        DataError, match=rf"a\.mha: its ElementSpacing is {spacing}, which no image"
    ):
        read_volume(path)


def test_a_direction_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    head = METAIMAGE.format(data="LOCAL", extra="").replace("1 0 0 0 1", "1 0 0 0 nan")
    path.write_bytes(head.encode() + RAW)
    with pytest.raises(DataError, match=r"its TransformMatrix is 1 0 0 0 nan 0 0 0 1, which no"):
        read_volume(path)
    head = METAIMAGE.format(data="LOCAL", extra="").replace(
        "1 0 0 0 1 0 0 0 1", "0 0 0 0 0 0 0 0 0"
    )
    path.write_bytes(head.encode() + RAW)
    with pytest.raises(DataError, match="determinant"):
        read_volume(path)


@pytest.mark.parametrize("given", ["(0.7,0,0) none (0,0,2.9)", "(0.7,0,0) (0,nan,0) (0,0,2.9)"])
def test_an_axis_without_a_step_in_an_nrrd_is_refused(tmp_path: Path, given: str) -> None:
    path = nrrd(tmp_path / "a.nrrd", "raw", voxels=RAW)
    path.write_bytes(path.read_bytes().replace(b"(0.7,0,0) (0,1.3,0) (0,0,2.9)", given.encode()))
    with pytest.raises(DataError, match=r"a\.nrrd: its space direction"):
        read_volume(path)


@pytest.mark.parametrize("steps", ["0.7 -1.3 2.9", "0.7 1.3 0"])
def test_nrrd_spacings_below_or_at_0_are_refused(tmp_path: Path, steps: str) -> None:
    path = nrrd(tmp_path / "a.nrrd", "raw", voxels=RAW)
    lines = [
        b"spacings: " + steps.encode() if line.startswith(b"space directions") else line
        for line in path.read_bytes().split(b"\n", 9)
    ]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=rf"its spacings is {steps}, which no image has"):
        read_volume(path)


def test_a_missing_data_file_is_told_before_what_its_header_lacks(tmp_path: Path) -> None:
    path = metaimage(tmp_path / "a.mhd", "gone.raw")
    path.write_text(path.read_text().replace("ElementSpacing = 0.7 1.3 2.9\n", ""))
    with pytest.raises(DataError, match=r"its data file gone\.raw is missing"):
        read_volume(path)
