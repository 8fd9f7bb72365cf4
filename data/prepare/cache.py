"""The folders of the prepared cache: whole or absent, and never stale.

A folder is filled under another name and renamed when complete, so that a killed or a second
writer does no harm. It is used only if version and key in its meta.json fit and its arrays are the
bytes that were written: a file whose size or times changed is checked against its sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from data.case import Center
from data.prepare.data_files import files_of
from data.readers import label_map_of
from data.readers.files import CaseFiles
from utils.files import write_json
from utils.leftovers import remove_leftovers, unfinished_path

CACHE_VERSION = 4  # raise it with every change of what a prepared case holds
META, STATES = "meta.json", "states.json"
# Keys of a center that choose its cases or what is done with them, and change no case.
_NOT_OF_A_CASE = (
    *("name", "path", "images", "labels", "image_suffix", "label_suffix", "patient_pattern"),
    *("exclude", "drop_duplicates", "tumor_threshold", "label_map"),
    *("sites", "site", "site_column", "site_case_column"),
)


def reading_rule(center: Center, files: CaseFiles) -> list[tuple[str, object]]:
    """All of a center's settings that shape how a case is read, for its `content_key`.

    Those left at their default are not among them. Raises `DataError` where the label map cannot
    be had.
    """
    rule = [
        (entry.name, getattr(center, entry.name))
        for entry in fields(center)
        if entry.name not in _NOT_OF_A_CASE and getattr(center, entry.name) != entry.default
    ]
    label_map = sorted(label_map_of(center).items()) if files.label is not None else None
    return [*rule, ("label_map", label_map)]


def content_key(files: CaseFiles, cache: Path, *context: object) -> str:
    """16 hex digits over the bytes of a case's files and whatever else shapes the result.

    The bytes are read again only when size or times of a file changed. Raises `OSError`.
    """
    content = hashlib.sha256(repr((CACHE_VERSION, *context)).encode())
    for path in (files.image, files.label):
        content.update(_hash_of(path, cache).encode() if path is not None else b"none")
    return content.hexdigest()[:16]


def _hash_of(path: Path, cache: Path) -> str:
    """sha256 of a file, or of the names and bytes of the several that hold a volume.

    It is remembered in the cache where that can be written.
    """
    is_folder = path.is_dir()
    parts = files_of(path)
    if not parts and not is_folder:
        parts = [path]  # is not there: its state cannot be had, which says so
    names = [os.path.relpath(part, path if is_folder else path.parent) for part in parts]
    state = [[name, *_state(part)] for name, part in zip(names, parts, strict=True)]
    place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    memory = cache / ".hashes" / f"{place}.json"
    known = _read_object(memory)
    if known is not None and known.get("state") == state:
        return str(known["sha256"])
    content = hashlib.sha256()
    for name, part in zip(names, parts, strict=True):
        content.update(name.encode("utf-8", "surrogateescape") if len(parts) > 1 else b"")
        content.update(_sha256(part).encode())
    with suppress(OSError):
        write_json(memory, {"path": str(path), "state": state, "sha256": content.hexdigest()})
    return content.hexdigest()


def read_meta(folder: Path, key: str) -> dict[str, Any] | None:
    """The meta of a whole folder of this version and key, else None."""
    meta = _read_object(folder / META)
    if meta is None or meta.get("version") != CACHE_VERSION or meta.get("key") != key:
        return None
    digest = meta.pop("digest", None)
    if digest != _digest(meta):
        return None
    known = _read_object(folder / STATES) or {}
    states = {}
    for name, sha256 in meta["arrays"].items():
        try:
            states[name] = _state(folder / name)
            if states[name] != known.get(name) and _sha256(folder / name) != sha256:
                return None
        except OSError:
            return None
    if states != known and os.access(folder, os.W_OK):
        with suppress(OSError):  # only remembered, so that it need not be computed again
            write_json(folder / STATES, states)
    return meta


def write_folder(
    folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any], key: str
) -> None:
    """Make `folder` with its arrays (name -> array) and meta, all at once.

    What is there already and whole is kept; what is there and broken is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(folder)
    unfinished.mkdir()
    try:
        digests, states = {}, {}
        for name, array in arrays.items():
            with (unfinished / name).open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
            digests[name] = _sha256(unfinished / name)
            states[name] = _state(unfinished / name)
        meta = {**meta, "version": CACHE_VERSION, "key": key, "arrays": digests}
        write_json(unfinished / META, {**meta, "digest": _digest(meta)})
        write_json(unfinished / STATES, states)
        _put_in_place(unfinished, folder, key)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put_in_place(unfinished: Path, folder: Path, key: str) -> None:
    """Rename; where another writer was faster, its folder stays if it is whole."""
    for _ in range(10):
        try:
            os.rename(unfinished, folder)
            return
        except OSError:
            if read_meta(folder, key) is not None:
                return
            broken = unfinished_path(folder)
            try:
                os.rename(folder, broken)
            except FileNotFoundError:
                continue
            shutil.rmtree(broken, ignore_errors=True)
    raise OSError(f"{folder}: cannot be replaced; delete it")


def remove_unfinished(cache: Path) -> None:
    """Delete what killed processes left unfinished, not what another machine still fills."""
    for folder in (cache, *cache.iterdir()):
        if folder.is_dir():
            remove_leftovers(folder)


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
