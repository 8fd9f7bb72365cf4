"""centers.toml -> centers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from data.case import Center, DataError
from data.readers import READERS
from data.readers.label import CLASSES, LABEL_GEOMETRIES


def load_centers(path: Path) -> dict[str, Center]:
    """Read centers.toml; the order of its tables is kept.

    Raises `DataError` with every fault at once, each naming file, table, key and the choices.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no valid TOML ({error})") from error
    tables = content.get("centers")
    problems = [
        f"{path}: unknown key {key!r}; a center is a table [centers.NAME]"
        for key in content
        if key != "centers"
    ]
    if not isinstance(tables, dict) or not tables:
        raise DataError([*problems, f"{path}: holds no table [centers.NAME]"])
    centers = {}
    for name, table in tables.items():
        where = f"{path}: [centers.{name}]"
        if not isinstance(table, dict):
            problems.append(f"{where} must be a table")
            continue
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            problems.append(f"{where}: a name has letters, digits, _ and - only")
        faults = [f"{where} {fault}" for fault in _faults(table)]
        problems.extend(faults)
        if not faults:
            centers[name] = _build_center(name, table, path)
    if problems:
        raise DataError(problems)
    return centers


# key -> (accepted types, in words)
_KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "reader": ((str,), f"one of {', '.join(READERS)}"),
    "path": ((str,), "a folder, relative to this file or absolute"),
    "has_lesions": ((bool,), "true or false"),
    "tumor_threshold": ((float, int), "a number between 0 and 1"),
    "label_map": ((dict,), f"a table of {', '.join(CLASSES)} with integers or lists of integers"),
    "label_geometry": ((str,), f"one of {', '.join(LABEL_GEOMETRIES)}"),
    "images": ((str,), "a folder below path"),
    "labels": ((str,), "a folder below path"),
    "image_suffix": ((str,), "the end of image names that label names do not have"),
    "label_suffix": ((str,), "the end of label names that image names do not have"),
    "patient_pattern": ((str,), "a regular expression whose first group is the patient"),
    "exclude": ((list,), "a list of case ids"),
    "drop_duplicates": ((bool,), "true or false"),
}

_RENAMED = {"drop_doubles": "drop_duplicates"}
_READERS_OF = {  # other layouts have their folders' names fixed
    "images": ("folder", "nih", "panorama"),
    "labels": ("folder", "nih", "panorama"),
    "image_suffix": ("folder",),
    "label_suffix": ("folder",),
}


def _faults(table: dict[str, Any]) -> list[str]:
    """What is wrong in one table, each beginning with the key."""
    faults = [
        f"{key}: is missing; {_KEYS[key][1]}" for key in ("reader", "path") if key not in table
    ]
    for key, value in table.items():
        if key in _RENAMED:
            faults.append(f"{key}: is called {_RENAMED[key]} now; rename it")
            continue
        if key not in _KEYS:
            faults.append(f"{key}: unknown key; choose from {', '.join(_KEYS)}")
            continue
        if table.get("reader") in READERS and table["reader"] not in _READERS_OF.get(key, READERS):
            faults.append(f"{key}: is read by {', '.join(_READERS_OF[key])} only; take it out")
        types, words = _KEYS[key]
        right_type = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if not right_type or not _is_allowed(key, value):
            faults.append(f"{key}: {value!r} is not {words}")
    return faults


def _is_allowed(key: str, value: Any) -> bool:
    """Whether a value of the right type is one that the key can have."""
    if key == "reader":
        return value in READERS
    if key == "label_geometry":
        return value in LABEL_GEOMETRIES
    if key == "tumor_threshold":
        return 0 < value < 1
    if key == "exclude":
        return all(isinstance(entry, str) for entry in value)
    if key == "patient_pattern":
        try:
            return re.compile(value).groups >= 1
        except re.error:
            return False
    if key == "label_map":
        return set(value) <= set(CLASSES) and all(_is_values(entry) for entry in value.values())
    return value != "" or key.endswith("suffix")


def _is_values(entry: Any) -> bool:
    entries = entry if isinstance(entry, list) else [entry]
    return all(isinstance(value, int) and not isinstance(value, bool) for value in entries)


def _build_center(name: str, table: dict[str, Any], path: Path) -> Center:
    values = dict(table)
    values["path"] = (path.parent / values["path"]).resolve()
    if "label_map" in values:
        values["label_map"] = {
            key: tuple(entry) if isinstance(entry, list) else (entry,)
            for key, entry in values["label_map"].items()
        }
    if "exclude" in values:
        values["exclude"] = tuple(values["exclude"])
    if "patient_pattern" not in values:
        values["patient_pattern"] = READERS[values["reader"]].patient_pattern
    return Center(name=name, **values)
