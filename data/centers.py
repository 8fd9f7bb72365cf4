"""centers.toml -> centers."""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.case import Center, DataError
from data.readers import READERS
from data.readers.label import CLASSES, LABEL_GEOMETRIES
from utils.commands import default_path


def load_centers(path: Path) -> dict[str, Center]:
    """Read centers.toml; the order of its tables is kept.

    Raises `DataError` with every fault at once, each naming file, table, key and the choices.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        example = shlex.join(["cp", str(default_path("centers.example.toml")), str(path)])
        raise DataError(
            f"{path}: cannot be read (there is no file {path.absolute()}); give the path of the "
            f"file that lists your centers, or start from the example: {example}"
        ) from error
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


def choose_centers(centers: Mapping[str, Center], names: Sequence[str]) -> dict[str, Center]:
    """The centers of those names, in their order; all of them without names. Raises `DataError`."""
    unknown = [name for name in names if name not in centers]
    if unknown:
        raise DataError(f"unknown center {', '.join(unknown)}; choose from {', '.join(centers)}")
    return {name: centers[name] for name in names or centers}


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
    "hu_scale": ((float, int), "a number above 0: HU = hu_scale * value + hu_offset"),
    "hu_offset": ((float, int), "a number: HU = hu_scale * value + hu_offset"),
    "drop_duplicates": ((bool,), "true or false"),
    "series": (
        (str, dict),
        "a series UID or a part of its description, or a table of them by case",
    ),
    "structures": (
        (dict,),
        "a table of pancreas and, where there is one, tumor, with lists of mask names",
    ),
    "sites": ((str,), "a .csv or .xlsx table below path, or relative to this file, or absolute"),
    "site": ((str, list), "a site of that table, or a list of them"),
    "site_case_column": ((str,), "the column of the table that holds the case ids"),
    "site_column": ((str,), "the column of the table that holds the sites"),
}

_RENAMED = {"drop_doubles": "drop_duplicates"}
_READERS_OF = {  # other layouts have their folders' names fixed
    "images": ("folder", "nih", "panorama", "structures"),
    "labels": ("folder", "nih", "panorama", "structures"),
    "image_suffix": ("folder", "structures"),
    "label_suffix": ("folder",),
    "label_map": tuple(name for name in READERS if name != "structures"),
    "series": ("folder", "nih"),
    "structures": ("structures", "folder"),
}
_NEEDS = {  # a key that says nothing without another
    "sites": "site",
    "site": "sites",
    "site_case_column": "sites",
    "site_column": "sites",
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
        if key in _NEEDS and _NEEDS[key] not in table:
            faults.append(f"{key}: needs the key {_NEEDS[key]} too, {_KEYS[_NEEDS[key]][1]}")
        types, words = _KEYS[key]
        right_type = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if not right_type or not _is_allowed(key, value):
            faults.append(f"{key}: {value!r} is not {words}")
    return faults


def _is_allowed(key: str, value: Any) -> bool:
    """Whether a value of the right type is one that the key can have."""
    return _RULES[key](value) if key in _RULES else value != "" or key.endswith("suffix")


def _is_pattern(value: str) -> bool:
    try:
        return re.compile(value).groups >= 1
    except re.error:
        return False


def _is_label_map(value: dict[str, Any]) -> bool:
    return set(value) <= set(CLASSES) and all(map(_is_values, value.values()))


def _is_values(entry: Any) -> bool:
    entries = entry if isinstance(entry, list) else [entry]
    return all(isinstance(value, int) and not isinstance(value, bool) for value in entries)


def _is_structures(value: dict[str, Any]) -> bool:
    known = {"pancreas"} <= set(value) <= {"pancreas", "tumor"}
    return known and all(map(_is_names, value.values()))


def _is_names(entry: Any) -> bool:
    entries = entry if isinstance(entry, list) else [entry]
    return entries != [] and all(isinstance(name, str) and name for name in entries)


def _is_series(value: Any) -> bool:
    entries = value.values() if isinstance(value, dict) else [value]
    return all(map(_is_names, entries)) and not any(isinstance(entry, list) for entry in entries)


# What a value must be beyond its type; other texts must not be empty.
_RULES: dict[str, Callable[[Any], bool]] = {
    "reader": lambda value: value in READERS,
    "label_geometry": lambda value: value in LABEL_GEOMETRIES,
    "tumor_threshold": lambda value: 0 < value < 1,
    "hu_scale": lambda value: 0 < value < math.inf,
    "hu_offset": math.isfinite,
    "exclude": lambda value: all(isinstance(entry, str) for entry in value),
    "patient_pattern": _is_pattern,
    "label_map": _is_label_map,
    "series": _is_series,
    "structures": _is_structures,
    "site": _is_names,
}


def _build_center(name: str, table: dict[str, Any], path: Path) -> Center:
    values = dict(table)
    values["path"] = (path.parent / values["path"]).resolve()
    if "label_map" in values:
        values["label_map"] = {
            key: tuple(entry) if isinstance(entry, list) else (entry,)
            for key, entry in values["label_map"].items()
        }
    if "structures" in values:
        values["structures"] = {
            key: tuple(entry) if isinstance(entry, list) else (entry,)
            for key, entry in values["structures"].items()
        }
    if "sites" in values:  # below the data set, where published tables are, or beside this file
        below = values["path"] / values["sites"]
        beside = (path.parent / values["sites"]).resolve()
        values["sites"] = below if below.is_file() or not beside.is_file() else beside
    for key in ("exclude", "site"):
        if key in values:
            entry = values[key]
            values[key] = tuple(entry) if isinstance(entry, list) else (entry,)
    if "patient_pattern" not in values:
        values["patient_pattern"] = READERS[values["reader"]].patient_pattern
    return Center(name=name, **values)
