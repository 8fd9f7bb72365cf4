"""Results as data: the cases of every evaluation. All that tables and statistics are made of.

`results/<experiment>/` holds one CSV for each method and stage, one line per case, networks.csv and
experiment.json. Rows from there and rows from checkpoints (`collect.py`) are the same.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.case_metrics import COLUMNS, TEXT_COLUMNS, Row
from utils.files import read_csv, read_json, sha256_of, write_text

THRESHOLDS = ("target", "source-val")
CURE = "export it again"
NETWORKS, EXPERIMENT = "networks.csv", "experiment.json"
# The columns that say which evaluation a case belongs to; `cases` is "test" or "heldout".
KEY_COLUMNS = (
    *("stage", "method", "row", "target", "seed", "fold", "roi_source", "threshold", "cases"),
    "center",
)
# In cases.csv of a run `threshold` is the number; here that name says how it was chosen.
RENAMED = {"threshold": "threshold_value"}
# What says more of a machine and its files than of a method is not exported.
NOT_EXPORTED = ("peak_memory_mib", "mask_sha256")
CASE_COLUMNS = tuple(RENAMED.get(c, c) for c in COLUMNS if c not in NOT_EXPORTED)
NETWORK_COLUMNS = ("method", "stage", "parameters", "macs")
BUDGET_COLUMNS = ("iterations", "own_iterations")  # of external methods


@dataclass(frozen=True, order=True)
class ResultKey:
    """One evaluation: of which training, on whose cases. Four of them where `folds`."""

    stage: str
    target: str  # what the training has never seen
    method: str
    seed: int
    roi_source: str = "seg"
    threshold: str = "target"  # how it was chosen: "target" or "source-val"
    folds: bool = False  # four-fold cross-validation inside the target
    heldout: str = ""  # a source center whose held-out cases these are; "": the target's cases

    def __str__(self) -> str:
        of = f"held-out cases of {self.heldout}" if self.heldout else f"threshold {self.threshold}"
        folds = ", four folds" if self.folds else ""
        return (
            f"{self.method}, {self.stage}, {self.target}, seed {self.seed}, "
            f"ROI {self.roi_source}, {of}{folds}"
        )


@dataclass(frozen=True)
class Network:
    """What a stage's network costs at the paper's input size (Table VI).

    `iterations`, `own_iterations`: how long an external method has trained, and its authors' do.
    """

    parameters: int
    macs: int
    iterations: int | None = None
    own_iterations: int | None = None

    @property
    def comparable(self) -> bool:
        """Whether an external method had its authors' budget; ours have one among them."""
        return self.iterations is None or self.iterations == self.own_iterations


@dataclass(frozen=True)
class Rows:
    """The cases of each evaluation as `read_cases` gives them, with their center and fold.

    `networks`: (method, stage) -> cost. `centers`: those with lesions, in their order.
    """

    evaluations: Mapping[ResultKey, Sequence[Row]]
    networks: Mapping[tuple[str, str], Network] = field(default_factory=dict)
    centers: tuple[str, ...] = ()

    def select(self, key: ResultKey) -> Sequence[Row] | None:
        """The cases of an evaluation; None where it is missing."""
        return self.evaluations.get(key)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that has a result, sorted."""
        return tuple(sorted({key.seed for key in self.evaluations}))

    def updated(self, newer: Rows) -> Rows:
        """With what `newer` has too: an evaluation of both is the newer one's."""
        return Rows(
            {**self.evaluations, **newer.evaluations},
            {**self.networks, **newer.networks},
            tuple(dict.fromkeys((*newer.centers, *self.centers))),
        )


def is_measured(row: Row) -> bool:
    """Whether a case compares with a lesion: there is a label, and not an empty one."""
    return "dsc" in row and "label" not in row.get("empty", "").split()


def read_results(folder: Path) -> Rows:
    """The rows of `results/<experiment>/`.

    Raises FileNotFoundError where it is no such folder, and ValueError, naming file and line, for a
    line that cannot be read or a case that is listed twice, and for a file that was changed since
    it was exported.
    """
    note = folder / EXPERIMENT
    if not note.is_file():
        raise FileNotFoundError(
            f"{folder}: no {EXPERIMENT} there, so these are no exported results; "
            "reproduce/export_results.py makes them"
        )
    facts = read_json(note, CURE, ("centers", "files"))
    evaluations: dict[ResultKey, list[Row]] = {}
    listed: set[tuple[ResultKey, str]] = set()
    for path in sorted(folder.glob("*.csv")):
        if path.name == NETWORKS:
            continue
        lines = read_csv(path, CURE, (*KEY_COLUMNS, "case_id"))
        for number, line in enumerate(lines, start=2):
            try:
                key, row = _parse_line(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if (key, row["case_id"]) in listed:
                raise ValueError(f"{path}, line {number}: {row['case_id']} is listed twice ({key})")
            listed.add((key, row["case_id"]))
            evaluations.setdefault(key, []).append(row)
    refuse_changed_files(folder, facts["files"])
    return Rows(evaluations, _read_networks(folder / NETWORKS), tuple(facts["centers"]))


def read_facts(folder: Path) -> dict[str, Any]:
    """experiment.json of `results/<experiment>/`."""
    return read_json(folder / EXPERIMENT, CURE)


def digest_files(folder: Path) -> dict[str, str]:
    """sha256 of each CSV of an experiment's folder, by name, as experiment.json holds them."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.csv"))}


def refuse_changed_files(folder: Path, noted: Mapping[str, str]) -> None:
    """Raise ValueError where the CSV files are not those that experiment.json names."""
    now = digest_files(folder)
    changed = sorted(name for name in {*noted, *now} if noted.get(name) != now.get(name))
    if changed:
        raise ValueError(
            f"{folder}: {', '.join(changed)} changed since the export (see {EXPERIMENT}); restore "
            "the files, or export them again by reproduce/export_results.py"
        )


def write_results(folder: Path, rows: Rows, names: Mapping[str, str]) -> list[Path]:
    """Write the CSV files, numbers with six digits; `names`: method -> its printed row.

    experiment.json is written by `export.py`. Returns the paths.
    """
    by_file: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(rows.evaluations):
        lines = by_file.setdefault(f"{key.method}_{key.stage}.csv", [])
        lines += [_to_line(key, row, names) for row in rows.evaluations[key]]
    written = []
    for name, lines in by_file.items():
        used = (c for c in CASE_COLUMNS if c == "case_id" or any(line.get(c) for line in lines))
        columns = [*KEY_COLUMNS, *used]
        written.append(_write_csv(folder / name, columns, lines))
    networks = [
        {"method": method, "stage": stage, **vars(n)}
        for (method, stage), n in sorted(rows.networks.items())
    ]
    budgets = [c for c in BUDGET_COLUMNS if any(line[c] is not None for line in networks)]
    columns = [*NETWORK_COLUMNS, *budgets]
    return [*written, _write_csv(folder / NETWORKS, columns, networks)]


def same_cases(key: ResultKey, one: Sequence[Row], other: Sequence[Row]) -> bool:
    """Whether two evaluations of a key would be written as the same lines."""
    return [_to_line(key, row, {}) for row in one] == [_to_line(key, row, {}) for row in other]


def _to_line(key: ResultKey, row: Row, names: Mapping[str, str]) -> dict[str, Any]:
    line = {
        "stage": key.stage,
        "method": key.method,
        "row": names.get(key.method, key.method),
        "target": key.target,
        "seed": key.seed,
        "fold": row.get("fold"),
        "roi_source": key.roi_source,
        "threshold": key.threshold,
        "cases": "heldout" if key.heldout else "test",
        "center": key.heldout or key.target,
        **{column: row.get(column) for column in CASE_COLUMNS},
    }
    return {column: _cell(value) for column, value in line.items()}


def _parse_line(line: Mapping[str, str]) -> tuple[ResultKey, Row]:
    if line["cases"] not in ("test", "heldout") or line["threshold"] not in THRESHOLDS:
        raise ValueError(
            f"cases is {line['cases']!r} (test or heldout), threshold is {line['threshold']!r} "
            f"({' or '.join(THRESHOLDS)})"
        )
    key = ResultKey(
        stage=line["stage"],
        target=line["target"],
        method=line["method"],
        seed=int(line["seed"]),
        roi_source=line["roi_source"],
        threshold=line["threshold"],
        folds=line["fold"] != "",
        heldout=line["center"] if line["cases"] == "heldout" else "",
    )
    row: Row = {"center": line["center"]}
    if key.folds:
        row["fold"] = int(line["fold"])
    for column, text in line.items():
        if column in CASE_COLUMNS and text:
            row[column] = text if column in TEXT_COLUMNS else float(text)
    return key, row


def _read_networks(path: Path) -> dict[tuple[str, str], Network]:
    if not path.is_file():
        return {}
    return {
        (line["method"], line["stage"]): Network(
            int(line["parameters"]),
            int(line["macs"]),
            *(int(line[c]) if line.get(c) else None for c in BUDGET_COLUMNS),
        )
        for line in read_csv(path, CURE, NETWORK_COLUMNS)
    }


def _write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> Path:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, buffer.getvalue())
    return path


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
