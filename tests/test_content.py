"""A file that is not what its name says is refused by its cause."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import SimpleITK as sitk

from data.case import DataError
from data.readers.volume import read_volume
from tests.volumes import make_image_hu, to_image, write_volume

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


def content_of(folder: Path, suffix: str) -> bytes:
    path = folder / f"source{suffix}"
    sitk.WriteImage(to_image(make_image_hu()), str(path))
    return path.read_bytes()


def refuse(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name}: .*{words}"):
        read_volume(path)


def test_a_file_compressed_twice_or_not_at_all_is_named(tmp_path: Path) -> None:
    packed = write_volume(tmp_path / "a.nii.gz", make_image_hu()).read_bytes()
    plain = gzip.decompress(packed)
    refuse(tmp_path / "a.nii.gz", gzip.compress(packed), r"compressed twice \(gzip in gzip\)")
    refuse(tmp_path / "a.nii.gz", plain, r"NIfTI file that is not compressed.* end in \.nii$")
    refuse(tmp_path / "a.nii", packed, r"is compressed with gzip, though its name ends in \.nii;")


def test_other_formats_under_a_volumes_name_are_named(tmp_path: Path) -> None:
    nrrd, metaimage = content_of(tmp_path, ".nrrd"), content_of(tmp_path, ".mha")
    refuse(tmp_path / "a.nii", nrrd, r"is an NRRD file.* end in \.nrrd")
    refuse(tmp_path / "a.nii.gz", gzip.compress(metaimage), "is a MetaImage file")
    refuse(tmp_path / "a.mha", nrrd, "is an NRRD file, though its name ends in .mha")
    refuse(tmp_path / "a.nrrd", content_of(tmp_path, ".nii"), "is a NIfTI file")
    refuse(tmp_path / "a.nii", bytes(128) + b"DICM" + bytes(400), "is a DICOM file")
    refuse(tmp_path / "a.nii.gz", b"PK\x03\x04" + bytes(400), "is a ZIP archive.*unpack")
    header = content_of(tmp_path, ".nii")[:348]
    pair = header[:344] + b"ni1\0"
    refuse(tmp_path / "a.nii", pair, r"header of a pair of files \(\.hdr and \.img\)")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr"])
def test_what_a_failed_download_leaves_is_named(tmp_path: Path, suffix: str) -> None:
    refuse(tmp_path / f"a{suffix}", b"", r"is empty \(0 bytes\)")
    refuse(tmp_path / f"a{suffix}", LFS, "is a Git LFS pointer.*git lfs pull")
    refuse(tmp_path / f"a{suffix}", b"\n<!DOCTYPE html><html>", "is a web page.*download it again")
    refuse(tmp_path / f"a{suffix}", b"404: not found", "copy or download the file again")
