"""The files of a volume: whatever its header names belongs to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.case import Center
from data.prepare.cache import content_key, reading_rule
from data.prepare.data_files import files_of
from data.readers.files import CaseFiles

NRRD = "NRRD0004\n# a comment\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\n"


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def names_of(folder: Path, header: str, text: str) -> list[str]:
    (folder / header).write_text(text)
    return [str(path.relative_to(folder)) for path in files_of(folder / header)]


def test_headers_name_their_files(tmp_path: Path) -> None:
    write(tmp_path, "other.raw", "below/more.raw", "s1.raw", "s3.raw", "s 5.raw", "a.raw")
    own = {"a.mhd": META + "ElementDataFile = {}\n", "a.nhdr": NRRD + "data file: {}\n\n"}
    for header, text in own.items():
        for value, expected in {
            "other.raw": ["other.raw"],
            "below/more.raw": ["below/more.raw"],
            "s%d.raw 1 5 2": ["s1.raw", "s3.raw"],
            "s%d.raw 3 1 -2": ["s1.raw", "s3.raw"],
            "s 5.raw": ["s 5.raw"],
            "LIST\ns1.raw\nother.raw": ["other.raw", "s1.raw"],
            "missing.raw": [],
        }.items():
            found = names_of(tmp_path, header, text.format(value))
            assert sorted(found) == sorted([header, *expected]), value
        (tmp_path / header).unlink()


def test_voxels_in_the_file_itself_name_no_other(tmp_path: Path) -> None:
    write(tmp_path, "LOCAL", "a.raw")
    assert names_of(tmp_path, "a.mha", META + "ElementDataFile = LOCAL\nvoxels") == ["a.mha"]
    assert names_of(tmp_path, "a.nrrd", NRRD + "\ndata file: a.raw") == ["a.nrrd"]


def test_pairs_and_folders_are_whole(tmp_path: Path) -> None:
    write(tmp_path, "a.hdr", "a.img", "series/1.dcm", "series/below/2.dcm", "b.nii")
    (tmp_path / "linked").symlink_to(tmp_path / "series")
    assert [path.name for path in files_of(tmp_path / "a.hdr")] == ["a.hdr", "a.img"]
    assert [path.name for path in files_of(tmp_path / "linked")] == ["1.dcm", "2.dcm"]
    assert files_of(tmp_path / "b.nii") == [tmp_path / "b.nii"]
    assert files_of(tmp_path / "missing.nii") == []


@pytest.mark.parametrize("changed", ["voxels.bin", "s2.raw", "series/below/2.dcm"])
def test_the_key_changes_with_every_file_of_a_volume(tmp_path: Path, changed: str) -> None:
    write(tmp_path, "voxels.bin", "s1.raw", "s2.raw", "series/1.dcm", "series/below/2.dcm")
    (tmp_path / "a.mhd").write_text(META + "ElementDataFile = voxels.bin\n")
    (tmp_path / "a.nhdr").write_text(NRRD + "data file: s%d.raw 1 2\n\n")
    cases = [CaseFiles(name, tmp_path / name, None, name) for name in ("a.mhd", "a.nhdr", "series")]
    before = [content_key(case, tmp_path / "cache") for case in cases]
    assert [content_key(case, tmp_path / "cache") for case in cases] == before
    (tmp_path / changed).write_bytes(b"other voxels")
    after = [content_key(case, tmp_path / "cache") for case in cases]
    assert sum(a != b for a, b in zip(after, before, strict=True)) == 1


def test_a_missing_file_is_an_error_and_a_cache_that_cannot_be_written_is_none(
    tmp_path: Path,
) -> None:
    missing = CaseFiles("a", tmp_path / "a.nii", None, "a")
    with pytest.raises(FileNotFoundError):
        content_key(missing, tmp_path / "cache")
    write(tmp_path, "a.nii", "file")
    assert content_key(missing, tmp_path / "file" / "cache") == content_key(missing, tmp_path)


def test_settings_that_shape_no_case_share_a_cache(tmp_path: Path) -> None:
    files = CaseFiles("a", tmp_path / "a.nii", tmp_path / "b.nii", "a")
    plain = reading_rule(Center("A", "folder", tmp_path), files)
    same = Center("B", "folder", tmp_path / "x", exclude=("b",), drop_duplicates=True, images="i")
    assert reading_rule(same, files) == plain
    for other in (
        Center("A", "msd", tmp_path),
        Center("A", "folder", tmp_path, label_geometry="image"),
        Center("A", "folder", tmp_path, has_lesions=False),
        Center("A", "folder", tmp_path, label_map={"pancreas": (3,)}),
    ):
        assert reading_rule(other, files) != plain
