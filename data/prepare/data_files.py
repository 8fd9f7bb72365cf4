"""The files that hold one volume: where a header names another file, its voxels lie there."""

from __future__ import annotations

import os
import re
from pathlib import Path

_HEADER_BYTES = 1 << 20  # the text of a header ends before
_META = (".mhd", ".mha")
_NRRD = (".nhdr", ".nrrd")
_PAIRS = {".hdr": (".img", ".img.gz"), ".img": (".hdr",)}
_IN_THE_FILE = ("LOCAL", "LIST")


def files_of(path: Path) -> list[Path]:
    """`path` and every file that belongs to it, sorted; a folder gives all files below it.

    MetaImage (ElementDataFile) and NRRD (data file) name their voxels' files, one, a list or a
    numbered pattern; names that do not exist, or lead out of the header's folder, are left out: the
    reader refuses them. Raises `OSError` where `path` cannot be read.
    """
    if path.is_dir():
        return sorted(
            Path(folder) / name
            for folder, _, names in os.walk(path, followlinks=True)
            for name in names
            if (Path(folder) / name).is_file()
        )
    suffix = path.suffix.lower()
    parts = {path}
    if suffix in _PAIRS:
        parts |= {path.with_suffix(other) for other in _PAIRS[suffix]}
    elif suffix in (*_META, *_NRRD):
        with path.open("rb") as stream:
            lines = stream.read(_HEADER_BYTES).decode("latin-1").splitlines()
        names = _names_in_meta(lines) if suffix in _META else _names_in_nrrd(lines)
        for name in names:
            parts.update(_expand(path.parent, name))
    return sorted(part for part in parts if part.is_file())


def _names_in_meta(lines: list[str]) -> list[str]:
    """ElementDataFile = NAME, PATTERN FIRST LAST STEP, LIST or LOCAL; it is a header's last key."""
    for number, line in enumerate(lines):
        key, _, value = line.partition("=")
        if key.strip() == "ElementDataFile":
            value = value.strip()
            below = value.split(" ")[0].upper() == "LIST"
            return [text.strip() for text in lines[number + 1 :]] if below else [value]
    return []


def _names_in_nrrd(lines: list[str]) -> list[str]:
    """data file: NAME, PATTERN FIRST LAST STEP, or LIST; a header ends at the first empty line."""
    for number, line in enumerate(lines):
        if not line.strip():
            break
        key, _, value = line.partition(":")
        if key.strip().lower() in ("data file", "datafile"):
            value = value.strip()
            below = value.split(" ")[0].upper() == "LIST"
            return [text.strip() for text in lines[number + 1 :]] if below else [value]
    return []


def _expand(folder: Path, name: str) -> list[Path]:
    """The files that one entry of a header names, relative to the header's `folder`."""
    if not name or name.upper() in _IN_THE_FILE or "\0" in name:
        return []
    numbered = re.fullmatch(r"([^%]*%0?\d{0,3}d[^%]*?)((?:\s+-?\d{1,6}){2,4})", name)
    if numbered is None:
        return _inside(folder, [name])
    first, last, *step = (int(text) for text in numbered[2].split())
    by = (step[0] if step else 1) or 1
    count = range(first, last + (1 if by > 0 else -1), by)
    return _inside(folder, [numbered[1] % number for number in count])


def _inside(folder: Path, names: list[str]) -> list[Path]:
    """The files of these names, in the folder or below it."""
    root = os.path.abspath(folder)
    files = [os.path.normpath(os.path.join(root, name)) for name in names]
    inside = [file for file in files if file.startswith(os.path.join(root, ""))]
    return [folder / os.path.relpath(file, root) for file in inside]
