"""MetaImage and NRRD files: where their voxels lie, and that every byte of them is there.

SimpleITK fills what is missing in a compressed file, or reads past a changed byte, without a word,
and follows a header to any file of the machine. So the header is read here first, and everything
that is compressed is decompressed once to the end of its stream, checksum and length compared.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from data.case import DataError
from data.readers.content import FETCH_AGAIN

_CHUNK = 1 << 22
_MAX_HEADER = 1 << 20
MAX_NUMBER = 100_000  # of a numbered data file: a scan has not so many slices
_METAIMAGE_BYTES = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
    "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
_NRRD_BYTES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t", "ushort",
        "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t",
        "float"),
    8: ("longlong", "long long", "long long int", "signed long long", "signed long long int",
        "int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int", "uint64",
        "uint64_t", "double"),
}  # fmt: skip
_NRRD_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}  # SimpleITK reads no bzip2


@dataclass(frozen=True)
class Stored:
    """What a header says of its voxels.

    `files`: those that hold them, in order, the header itself where they follow it. `start`: the
    byte of each at which they begin; -1: they are its last bytes. `skip`: bytes to skip after
    decompression. `encoding`: "raw", "zlib" or "gzip". `size`: bytes of all voxels.
    """

    files: tuple[Path, ...]
    start: int
    encoding: str
    size: int
    skip: int = 0
    notes: tuple[str, ...] = ()


def read_stored(path: Path) -> Stored:
    """The header of a MetaImage or NRRD file. Raises `DataError`."""
    try:
        with path.open("rb") as stream:
            if path.suffix.lower() in (".mha", ".mhd"):
                return _read_metaimage(stream, path)
            return _read_nrrd(stream, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    except (ValueError, IndexError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: its header is corrupt ({error}); {FETCH_AGAIN}") from error


def check_stored(path: Path) -> tuple[str, ...]:
    """Notes on the header of a file whose voxels are all there. Raises `DataError`."""
    stored = read_stored(path)
    share = stored.size // len(stored.files)
    for file in stored.files:
        named = f"{path}: " if file == path else f"{path}: its data file {file.name} "
        try:
            found = _count_bytes(file, stored)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{named}is cut short or corrupt ({error}); {FETCH_AGAIN}") from error
        if found < share:
            raise DataError(f"{named}is cut short ({found} of {share} bytes); {FETCH_AGAIN}")
        if found > share and stored.start >= 0:
            raise DataError(
                f"{named}is longer than the header says ({found} instead of {share} bytes of "
                "voxels), so size or number type in the header is wrong; write the file again"
            )
    return stored.notes


def _count_bytes(file: Path, stored: Stored) -> int:
    """Bytes of voxels in one file; a compressed one is read to the end of its stream."""
    with file.open("rb") as stream:
        if stored.encoding == "raw":
            return file.stat().st_size - max(stored.start, 0)
        stream.seek(stored.start)
        total = sum(len(part) for part in _decompress(stream, stored.encoding))
        return total if stored.skip < 0 else total - stored.skip


def _decompress(stream: IO[bytes], encoding: str) -> Iterator[bytes]:
    """Parts of a compressed stream; raises where it ends too early or its checksum is wrong."""
    if encoding != "zlib":
        with gzip.GzipFile(fileobj=stream) as opened:
            while part := opened.read(_CHUNK):
                yield part
        return
    decoder = zlib.decompressobj(wbits=47)  # a zlib or a gzip stream
    while not decoder.eof:
        raw = stream.read(1 << 16)  # zlib makes at most a thousandfold of it
        if not raw:
            raise EOFError("ended before the end of the compressed stream")
        yield decoder.decompress(raw)


def _read_metaimage(stream: IO[bytes], path: Path) -> Stored:
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = stream.readline(_MAX_HEADER)
        if not line:
            raise DataError(f"{path}: is cut short or no MetaImage file; {FETCH_AGAIN}")
        key, _, value = line.decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
    if fields.get("BinaryData", "True").lower() == "false":
        raise DataError(f"{path}: holds its voxels as text; write it again in binary")
    sizes = [int(n) for n in fields["DimSize"].split()] if "DimSize" in fields else []
    step = _METAIMAGE_BYTES.get(fields.get("ElementType", "").removeprefix("MET_"))
    if not sizes or min(sizes) < 1 or step is None:
        raise DataError(f"{path}: its header gives no size or number type; {FETCH_AGAIN}")
    step *= int(fields.get("ElementNumberOfChannels", "1"))
    name, start = fields["ElementDataFile"], 0
    if name.lower() == "local":
        files, start = [path], stream.tell()
    elif name.startswith("LIST"):
        files = _files_of_list(stream, path)
    elif "%" in name:
        files = _numbered(name.split(), path)
    else:
        files = [_in_folder(path, name)]
    compressed = fields.get("CompressedData", "False").lower() == "true"
    header_size = int(fields.get("HeaderSize", "0"))
    _check_there(files, path)
    return Stored(
        tuple(files),
        start if name.lower() == "local" or compressed else header_size,
        "zlib" if compressed else "raw",
        math.prod(sizes) * step,
        notes=_metaimage_notes(fields, path),
    )


def _metaimage_notes(fields: dict[str, str], path: Path) -> tuple[str, ...]:
    if not fields.keys() & {"ElementSpacing", "ElementSize"}:
        raise DataError(
            f"{path}: its header gives no voxel size (ElementSpacing); add it, or convert the "
            "image again from DICOM"
        )
    for name in ("ElementSpacing", "ElementSize"):
        _check_numbers(fields.get(name, ""), name, path, lengths=True)
    for name in ("TransformMatrix", "Rotation", "Orientation", "Offset", "Origin", "Position"):
        _check_numbers(fields.get(name, ""), name, path)
    if fields.keys() & {"TransformMatrix", "Rotation", "Orientation"}:
        return ()
    return (_no_orientation("TransformMatrix"),)


def _check_numbers(text: str, name: str, path: Path, *, lengths: bool = False) -> None:
    """A header's numbers: all finite, and lengths above 0. ITK mirrors an axis of length below 0.

    Raises `DataError`.
    """
    numbers = [float(word) for word in re.split(r"[\s,()]+", text) if word]
    if not all(map(math.isfinite, numbers)) or (lengths and min(numbers, default=1) <= 0):
        raise DataError(
            f"{path}: its {name} is {text}, which no image has; correct the header, or convert the "
            "image again from DICOM"
        )


def _no_orientation(field: str) -> str:
    return (
        f"its header gives no orientation ({field}); read as x to the left, y to the back, z to "
        "the head: look at a picture of it"
    )


def _read_nrrd(stream: IO[bytes], path: Path) -> Stored:
    if not stream.readline(_MAX_HEADER).startswith(b"NRRD"):
        raise DataError(f"{path}: is cut short or no NRRD file; {FETCH_AGAIN}")
    fields: dict[str, str] = {}
    while line := stream.readline(_MAX_HEADER).strip(b"\r\n"):
        text = line.decode("latin-1")
        if text.startswith("#") or ":=" in text:
            continue
        key, _, value = text.partition(":")
        if key.strip().lower().replace(" ", "") == "datafile" and "datafile" in fields:
            raise DataError(f"{path}: its header names two data files; correct it")
        fields[key.strip().lower().replace(" ", "")] = value.strip()
        if key.strip().lower().replace(" ", "") == "datafile" and value.split()[:1] == ["LIST"]:
            break
    type_name = " ".join(fields.get("type", "").lower().split())
    step = next((size for size, names in _NRRD_BYTES.items() if type_name in names), None)
    sizes = [int(n) for n in fields.get("sizes", "").split()]
    if not sizes or min(sizes) < 1 or step is None:
        raise DataError(f"{path}: is cut short, or its header gives no size or type; {FETCH_AGAIN}")
    encoding = _NRRD_ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise DataError(
            f"{path}: its voxels are stored as {fields.get('encoding')!r}; write it again with "
            "encoding raw or gzip"
        )
    files, start = _nrrd_files(stream, fields.get("datafile", ""), path)
    start = _skip_lines(files[0], start, int(fields.get("lineskip", "0")))
    skip = int(fields.get("byteskip", "0"))
    if encoding == "raw":
        start, skip = (-1 if skip < 0 else start + skip), 0
    _check_there(files, path)
    notes = _nrrd_notes(fields, path)
    return Stored(tuple(files), start, encoding, math.prod(sizes) * step, skip, notes)


def _nrrd_files(stream: IO[bytes], name: str, path: Path) -> tuple[list[Path], int]:
    """The files of the voxels, and where in them they start."""
    if not name:
        return [path], stream.tell()
    if name.split()[0] == "LIST":
        return _files_of_list(stream, path), 0
    if re.search(r"%\d*d", name):
        return _numbered(name.split(), path), 0
    return [_in_folder(path, name)], 0


def _nrrd_notes(fields: dict[str, str], path: Path) -> tuple[str, ...]:
    given = fields.get("spacedirections", "")
    vectors = given.replace("none", "").strip()
    _check_vectors(given, path)
    if not vectors and not fields.get("spacings"):
        raise DataError(
            f"{path}: its header gives no voxel size (space directions); add it, or convert the "
            "image again from DICOM"
        )
    steps = [word for word in fields.get("spacings", "").split() if word.lower() != "nan"]
    _check_numbers(" ".join(steps), "spacings", path, lengths=True)  # nan: no length, as of a list
    _check_numbers(fields.get("spaceorigin", ""), "space origin", path)
    if not vectors and len(steps) < 3:
        raise DataError(f"{path}: its header gives no voxel size for 3 axes; write it again")
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", "") or fields.get("units", ""))
    if any(unit not in ("", "mm", "???") for unit in units):
        raise DataError(f"{path}: its lengths are in {units[0]}, not mm; write it again in mm")
    return () if fields.get("space") and vectors else (_no_orientation("space"),)


def _check_vectors(given: str, path: Path) -> None:
    """Each of the three axes of space has its step; that of a list has none. Raises `DataError`."""
    axes = re.findall(r"\([^)]*\)", given)
    if given and len(axes) < 3:
        raise DataError(
            f"{path}: its space directions are {given}, not a vector for each of three axes; "
            "correct the header, or convert the image again from DICOM"
        )
    for axis in axes:
        _check_numbers(axis, "space direction", path)


def _skip_lines(file: Path, start: int, lines: int) -> int:
    if lines == 0 or not file.is_file():
        return start
    with file.open("rb") as stream:
        stream.seek(start)
        for _ in range(lines):
            stream.readline()
        return stream.tell()


def _files_of_list(stream: IO[bytes], path: Path) -> list[Path]:
    names = [line.decode("latin-1").strip() for line in stream]
    return [_in_folder(path, name) for name in names if name]


def _numbered(words: list[str], path: Path) -> list[Path]:
    """NAME%03d.raw FIRST LAST STEP -> the files, as both formats have it."""
    first, last, *more = (int(word) for word in words[1:4])
    step = more[0] if more else 1
    numbers = range(first, last + (1 if step > 0 else -1), step)
    if re.search(r"%\d{4}", words[0]) or max(abs(first), abs(last)) > MAX_NUMBER:
        raise DataError(f"{path}: its header names data files without end ({words[0][:80]})")
    return [_in_folder(path, words[0] % number) for number in numbers]


def _check_there(files: list[Path], path: Path) -> None:
    for file in files:
        if not file.is_file():
            raise DataError(
                f"{path}: its data file {file.name} is missing; restore it next to the header"
            )


def _in_folder(path: Path, name: str) -> Path:
    """A data file that a header names, which must lie in the header's folder or below it."""
    folder = os.path.abspath(path.parent)
    file = os.path.normpath(os.path.join(folder, name))
    if os.path.commonpath((folder, file)) != folder or file == folder:
        raise DataError(
            f"{path}: its header names the data file {name}, which is outside its folder; put the "
            "file next to the header and correct the name"
        )
    return path.parent / os.path.relpath(file, folder)
