"""Data sets that somebody spoiled on purpose: refused by name, and nothing else is read."""

from __future__ import annotations

import gzip
import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import Center, DataError
from data.prepare.data_files import files_of
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PrepareSettings
from data.readers import READERS, list_center, load_case
from data.readers.files import CaseFiles, read_json
from data.readers.header import estimate_voxels
from data.readers.listing import Listing
from data.readers.nnunet_raw import label_map
from data.readers.volume import read_volume
from tests.conftest import make_tiny_case
from tests.volumes import to_image, write_volume

META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 4 4 4\nElementSpacing = 1 1 1\n"
    "ElementType = MET_UCHAR\nHeaderSize = -1\nElementDataFile = "
)
NRRD = (
    "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nspace: left-posterior-superior\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\nbyte skip: -1\n"
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no header of `tmp_path / "in"` may name."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "own.raw").write_bytes(bytes(64))
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 64)
    return secret


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mhd", META + "{}\n"),
        ("a.mhd", META + "../secret\n"),
        ("a.mhd", META + "LIST\n{}\n"),
        ("a.mhd", META + "../secre%c 116 116 1\n"),
        ("a.nhdr", NRRD + "data file: {}\n\n"),
        ("a.nhdr", NRRD + "DATA FILE: ../secret\n\n"),
        ("a.nhdr", NRRD + "data file: LIST\n{}\n"),
        ("a.nhdr", NRRD + "data file: own.raw\ndatafile: {}\n\n"),
        ("a.nhdr", NRRD + "data file: {}\ndatafile: own.raw\n\n"),
    ],
)
def test_a_header_reads_no_file_outside_its_folder_and_nothing_hashes_it(
    name: str, text: str, outside: Path
) -> None:
    path = outside.parent / "in" / name
    path.write_text(text.format(outside))
    with pytest.raises(DataError, match=r"outside its folder|two data files") as raised:
        read_volume(path)
    assert str(path) in str(raised.value)
    assert {file.name for file in files_of(path)} <= {name, "own.raw"}


def test_the_file_that_a_header_names_is_read_and_hashed(outside: Path) -> None:
    path = outside.parent / "in" / "a.mhd"
    path.write_text(META + "own.raw\n")
    assert read_volume(path).array.shape == (4, 4, 4)
    assert [file.name for file in files_of(path)] == ["a.mhd", "own.raw"]


@pytest.mark.parametrize("entry", ["x%d 1 9999999999 1", "x%09999999d 1 3 1", "%s%s 1 2 1"])
def test_data_files_without_end_are_refused_at_once(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mhd"
    path.write_text(META + entry + "\n")
    started = time.monotonic()
    with pytest.raises(DataError, match=r"a\.mhd: "):
        read_volume(path)
    assert files_of(path) == [path]
    assert time.monotonic() - started < 5


# sizes that only a header has


def write_huge(path: Path) -> None:
    """A NIfTI file whose header claims 32767 voxels along each axis."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((4, 4, 4))
    header.set_zooms((1.0, 1.0, 1.0))
    header["qform_code"] = 1
    header["magic"], header["vox_offset"] = b"n+1", 352
    content = bytearray(header.binaryblock + bytes(4 + 128))
    struct.pack_into("<8h", content, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("name", ["b.nii", "b.nii.gz", "b.mhd", "b.nhdr"])
def test_a_header_of_32767_cubed_names_its_case_and_the_others_are_prepared(
    name: str, tmp_path: Path
) -> None:
    for case, seed in (("a", 1), ("c", 2)):
        for kind, array in zip(("images", "labels"), make_tiny_case(seed), strict=True):
            path = tmp_path / "A" / kind / f"{case}.nii.gz"
            write_volume(path, to_image(array, (3.0, 1.5, 1.5)))
    huge = tmp_path / "A" / "images" / name
    if ".nii" in name:
        write_huge(huge)
    else:
        (huge.parent / "own.raw").write_bytes(bytes(64))
        text = META + "own.raw\n" if name == "b.mhd" else NRRD + "data file: own.raw\n\n"
        huge.write_text(text.replace("4 4 4", "32767 32767 32767"))
    (tmp_path / "A" / "labels" / "b.nii.gz").write_bytes(
        (tmp_path / "A" / "labels" / "a.nii.gz").read_bytes()
    )
    assert estimate_voxels(huge, None) == 0
    center = Center("A", "folder", tmp_path / "A")
    with pytest.raises(DataError) as raised:
        prepare_centers([center], tmp_path / "cache", PrepareSettings(spacing=(3.0, 1.5, 1.5)))
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["A/b"]
    assert len(list((tmp_path / "cache" / "A").iterdir())) == 2


# dataset.json


@pytest.mark.parametrize(
    "labels",
    [
        "null",
        "[]",
        '"text"',
        "{}",
        '{"background": null}',
        '{"background": 0, "pancreas": {"a": 1}}',
        '{"background": 0, "pancreas": [[1]]}',
        '{"background": 0, "pancreas": "--1"}',
        '{"background": 0, "pancreas": "\\u00b2"}',
        '{"background": 0, "pancreas": 1e400}',
        '{"background": 0, "pancreas": true}',
        '{"0": null, "1": "pancreas"}',
        '{"0": ["background"], "1": "pancreas"}',
        '{"\\u00b2": "pancreas"}',
        '{"background": ' + "9" * 5000 + "}",
        "[" * 100_000,
    ],
    ids=range(16),
)
def test_a_dataset_json_of_another_shape_is_named(labels: str, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(f'{{"labels": {labels}}}')
    with pytest.raises(DataError) as raised:
        label_map(Center("A", "nnunet_raw", tmp_path))
    assert str(raised.value).startswith(str(path))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("content", [b"null", b"[]", b"\xff", b"", b'{"a": 1'])
def test_json_that_is_no_object_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_json(path)


def test_a_file_name_that_is_no_utf8_is_named_and_can_be_printed(tmp_path: Path) -> None:
    for folder, array in zip(("images", "labels"), make_tiny_case(1), strict=True):
        write_volume(tmp_path / folder / "a.nii.gz", to_image(array, (3.0, 1.5, 1.5)))
    try:
        (tmp_path / "images" / os.fsdecode(b"b\xff.nii.gz")).write_bytes(b"x")
    except OSError:
        pytest.skip("this disk takes no such name")
    with pytest.raises(DataError, match="no valid UTF-8; rename") as raised:
        list_center(Center("A", "folder", tmp_path))
    str(raised.value).encode("utf-8")


def test_a_case_in_a_folder_whose_name_is_no_utf8_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"b\xff")
    found = [CaseFiles(n, tmp_path / n, None, n) for n in (name, "a")]
    reader = replace(
        READERS["folder"],
        list_center=lambda center: Listing(2, 0, tuple(found), ((name, f"why {name}"),)),
    )
    monkeypatch.setitem(READERS, "folder", reader)
    center = Center("A", "folder", tmp_path)
    listing = list_center(center)
    good, bad = listing.cases
    assert (good.case_id, good.problem) == ("a", None)
    assert (bad.case_id, bad.patient_id) == ("b\\udcff", "b\\udcff")
    assert listing.left_out == (("b\\udcff", "why b\\udcff"),)
    with pytest.raises(DataError, match="no UTF-8 text; rename") as raised:
        load_case(center, bad)
    str(raised.value).encode("utf-8")
