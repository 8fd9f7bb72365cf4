"""What a file holds by its first bytes, so that a refusal names the cause and not its symptom."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from data.case import DataError

FETCH_AGAIN = "copy or download the file again"
_HEAD = 1024

# kind -> (what it is, the cure)
_KINDS = {
    "lfs": ("is a Git LFS pointer, not the image itself", "fetch it with `git lfs pull`"),
    "html": ("is a web page (a login or an error message), not the image", "download it again"),
    "gzip": ("is compressed with gzip", "decompress it, or let its name end in .gz"),
    "zip": ("is a ZIP archive", "unpack it"),
    "dicom": ("is a DICOM file", "give the folder of the whole series"),
    "nifti": ("is a NIfTI file that is not compressed", "let its name end in .nii"),
    "analyze": (
        "is the header of a pair of files (.hdr and .img)",
        "convert both into one .nii.gz; check left and right, which Analyze files do not state",
    ),
    "nrrd": ("is an NRRD file", "let its name end in .nrrd"),
    "metaimage": ("is a MetaImage file", "let its name end in .mha or .mhd"),
}
_EXPECTED = {
    ".nii": "nifti", ".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage",
}  # fmt: skip


def check_content(path: Path) -> None:
    """Refuse a file whose first bytes are not what its name says. Raises `DataError`."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    if not head:
        raise DataError(f"{path}: is empty (0 bytes), as after a cut short copy; {FETCH_AGAIN}")
    kind = _kind_of(head)
    if not path.name.lower().endswith(".gz"):
        _refuse(path, kind, _EXPECTED.get(path.suffix.lower()))
        return
    if kind != "gzip":
        _refuse(path, kind, "gzip")
        raise DataError(f"{path}: is no gzip file, it is cut short or corrupt; {FETCH_AGAIN}")
    inner = _inner_head(path)
    if _kind_of(inner) == "gzip":
        raise DataError(
            f"{path}: is compressed twice (gzip in gzip); decompress it once with gunzip and keep "
            "the name"
        )
    _refuse(path, _kind_of(inner), "nifti")


def _refuse(path: Path, kind: str | None, expected: str | None) -> None:
    if kind is None or kind == expected:
        return
    what, cure = _KINDS[kind]
    raise DataError(f"{path}: {what}, though its name ends in {_suffix(path)}; {cure}")


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.name.lower().endswith(".gz") else path.suffix


def _inner_head(path: Path) -> bytes:
    """The first decompressed bytes; fewer where the file is damaged, which reading it will say."""
    try:
        with gzip.open(path) as stream:
            return stream.read(_HEAD)
    except (OSError, EOFError, zlib.error):
        return b""


def _kind_of(head: bytes) -> str | None:
    """A key of `_KINDS`, or None where the bytes are none of them."""
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "lfs"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "html"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(b"NRRD"):
        return "nrrd"
    if b"NDims" in head and b"=" in head:
        return "metaimage"
    return _nifti_kind(head)


def _nifti_kind(head: bytes) -> str | None:
    size = head[:4]
    if size in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and len(head) >= 348:  # NIfTI-1 and Analyze 7.5
        return "nifti" if head[344:348] == b"n+1\0" else "analyze"
    if size in (b"\x1c\x02\0\0", b"\0\0\x02\x1c"):  # 540: NIfTI-2
        return "nifti"
    return None
