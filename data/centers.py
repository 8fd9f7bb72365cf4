"""centers.toml -> centers; leave-one-center-out round robin; four folds inside a center."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.case import DataError
from data.readers import READERS, list_cases
from data.readers.files import CaseFiles
from data.readers.label import CLASSES, LABEL_GEOMETRIES, LabelMap

ORGANS = ("pancreas", "tumor")  # what a stage segments; lesion-free centers know the first only
N_FOLDS = 4  # Table IV


@dataclass(frozen=True)
class Center:
    """One hospital's data set: one table of centers.toml, see docs/data.md for each key.

    `path` is absolute. `label_map` None: the reader's own. `label_geometry` None: the reader's.
    """

    name: str
    reader: str
    path: Path
    has_lesions: bool = True
    tumor_threshold: float | None = None
    label_map: LabelMap | None = None
    label_geometry: str | None = None
    images: str | None = None
    labels: str | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    patient_pattern: str | None = None
    exclude: tuple[str, ...] = ()
    drop_doubles: bool = False


@dataclass(frozen=True)
class Split:
    """Which cases train and which test; `fold` is None for leave-one-center-out.

    Raises `ValueError` where a test case, or without folds any case of the target, would train.
    """

    sources: tuple[str, ...]
    target: str
    train_cases: tuple[tuple[str, str], ...]  # (center, case_id)
    test_cases: tuple[tuple[str, str], ...]
    fold: int | None = None
    dropped_cases: tuple[tuple[str, str], ...] = ()  # doubles that their center drops

    def __post_init__(self) -> None:
        leaked = set(self.train_cases) & set(self.test_cases)
        if self.fold is None:
            leaked |= {case for case in self.train_cases if case[0] == self.target}
        if leaked:
            names = ", ".join(f"{center}/{case_id}" for center, case_id in sorted(leaked))
            raise ValueError(f"cases of the test set would train: {names}")

    @property
    def hash(self) -> str:
        """sha256 over everything that defines the split; the same on every machine."""
        content = [
            sorted(self.sources),
            self.target,
            sorted(self.train_cases),
            sorted(self.test_cases),
            self.fold,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


CaseLists = Mapping[str, Sequence[CaseFiles]]


def round_robin(
    centers: Mapping[str, Center], organ: str = "tumor", cases: CaseLists | None = None
) -> list[Split]:
    """One split per center with lesions: it is the target, all others are sources (Sec. IV-C).

    `organ` "pancreas" adds the lesion-free centers to the sources, "tumor" leaves them out; they
    are never a target. `cases`: what to split, by default all that the readers list.
    Raises `DataError` with fewer than two centers with lesions.
    """
    targets = [name for name, center in centers.items() if center.has_lesions]
    if len(targets) < 2:
        raise DataError(
            f"a round robin needs two centers with lesions at least, not {len(targets)} "
            f"({', '.join(targets) or 'none'}); add one, or use the folds inside a center"
        )
    cases = list_all_cases(centers) if cases is None else cases
    return [make_split(centers, None, target, organ, cases) for target in targets]


def make_split(
    centers: Mapping[str, Center],
    sources: Sequence[str] | None,
    target: str,
    organ: str = "tumor",
    cases: CaseLists | None = None,
) -> Split:
    """Train on all of `sources` (None: all other centers that fit `organ`), test on `target`.

    Raises `DataError` for an unknown center, the target among the sources, a lesion-free target,
    or a lesion-free source of a tumor stage.
    """
    if organ not in ORGANS:
        raise ValueError(f"unknown organ {organ!r}; choose from {', '.join(ORGANS)}")
    usable = [
        name
        for name, center in centers.items()
        if name != target and (center.has_lesions or organ == "pancreas")
    ]
    chosen = usable if sources is None else list(sources)
    for name in [target, *chosen]:
        if name not in centers:
            raise DataError(f"unknown center {name!r}; choose from {', '.join(centers)}")
    if target in chosen:
        raise DataError(f"center {target} is the target and cannot be a source too")
    if not centers[target].has_lesions:
        raise DataError(f"center {target} has no lesions and is never a target")
    refused = [name for name in chosen if name not in usable]
    if refused:
        raise DataError(f"center {refused[0]} has no lesions: a source of pancreas stages only")
    if not chosen:
        raise DataError(f"no source center is left for target {target}; add one")
    if cases is None:
        cases = list_all_cases({name: centers[name] for name in [*chosen, target]})
    return Split(
        sources=tuple(chosen),
        target=target,
        train_cases=tuple((name, files.case_id) for name in chosen for files in cases[name]),
        test_cases=tuple((target, files.case_id) for files in cases[target]),
    )


def four_folds(
    center: Center, cases: Sequence[CaseFiles] | None = None, n_folds: int = N_FOLDS
) -> list[Split]:
    """Cross-validation inside a center (Table IV): fold k tests patients k, k + 4, k + 8, ...

    Patients are numbered from 0 in the order of their first case id; all scans of a patient are in
    one fold. Raises `DataError` with fewer patients than folds.
    """
    cases = list_cases(center) if cases is None else cases
    patients = list(dict.fromkeys(files.patient_id for files in cases))
    if len(patients) < n_folds:
        raise DataError(
            f"{center.name}: {n_folds} folds need as many patients, not {len(patients)}"
        )
    fold_of = {patient: number % n_folds for number, patient in enumerate(patients)}
    splits = []
    for fold in range(n_folds):
        test = tuple((center.name, f.case_id) for f in cases if fold_of[f.patient_id] == fold)
        train = tuple((center.name, f.case_id) for f in cases if fold_of[f.patient_id] != fold)
        splits.append(Split((center.name,), center.name, train, test, fold))
    return splits


def list_all_cases(centers: Mapping[str, Center]) -> dict[str, list[CaseFiles]]:
    """Center -> its cases. Raises one `DataError` for all centers that cannot be listed."""
    cases: dict[str, list[CaseFiles]] = {}
    problems: list[str] = []
    for name, center in centers.items():
        try:
            cases[name] = list_cases(center)
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(problems)
    return cases


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
    "drop_doubles": ((bool,), "true or false"),
}

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
