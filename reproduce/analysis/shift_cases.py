"""Dice of every case under every change, as data: `results/<experiment>/shifts/`.

A file for each method, target and seed, a line for each change, strength, stage and case.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from reproduce.analysis.render import to_csv
from utils.files import write_text

FOLDER = "shifts"  # in an experiment's folder of results/
NOTE = "experiment.json"


@dataclass(frozen=True)
class ShiftedCase:
    """Dice (%) of one stage on one case under one change.

    `strength`: as text, "" of the unchanged image. `weights`: digest of the four checkpoints.
    """

    method: str
    row: str
    target: str
    seed: int
    stage: str
    change: str
    strength: str
    case_id: str
    dsc: float
    weights: str


COLUMNS = tuple(item.name for item in fields(ShiftedCase))


def case_path(folder: Path, method: str, target: str, seed: int) -> Path:
    """The file of a training, in `results/<experiment>`."""
    return folder / FOLDER / f"{method}_{target}_seed{seed}.csv"


def read_shifted(folder: Path) -> list[ShiftedCase]:
    """Every line of `results/<experiment>/shifts/`.

    Raises FileNotFoundError where there is none, ValueError, naming file and line, where one cannot
    be read or is there twice.
    """
    paths = sorted((folder / FOLDER).glob("*.csv"))
    if not paths:
        raise FileNotFoundError(
            f"{folder / FOLDER}: no results of shifts there; "
            "reproduce/shift_matrix.py --experiment FOLDER --out makes them"
        )
    found = [case for path in paths for case in read_file(path)]
    if len({key_of(case) for case in found}) < len(found):
        raise ValueError(f"{folder / FOLDER}: the same case is there twice; remove a file")
    return found


def read_file(path: Path) -> list[ShiftedCase]:
    """The lines of one file; [] where there is none. Raises ValueError, naming file and line."""
    if not path.is_file():
        return []
    found = []
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        for line in reader:
            try:
                found.append(_parse(line))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: cannot be read ({error!r}); remove the file, "
                    "and what it held is computed again"
                ) from error
    return found


def write_file(path: Path, cases: Iterable[ShiftedCase]) -> None:
    """Write one file, six digits of each number."""
    lines = [asdict(case) | {"dsc": f"{case.dsc:.6g}"} for case in cases]
    write_text(path, to_csv(COLUMNS, lines))


def key_of(case: ShiftedCase) -> tuple[object, ...]:
    """What tells a line from every other."""
    return tuple(getattr(case, name) for name in COLUMNS if name not in ("row", "dsc", "weights"))


def cases_of_unit(cases: Sequence[ShiftedCase], change: str, strength: str) -> set[str]:
    """The names of the cases that are there under a change."""
    return {c.case_id for c in cases if (c.change, c.strength) == (change, strength)}


def _parse(line: Mapping[str, str]) -> ShiftedCase:
    values = {name: line[name] for name in COLUMNS}
    return ShiftedCase(**{**values, "seed": int(values["seed"]), "dsc": float(values["dsc"])})  # type: ignore[arg-type]
