"""What a table is, and how each of the scripts beside this file prints and writes its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from reproduce.analysis.compare import (
    ALL_METRICS,
    LINE_COLUMNS,
    MEAN,
    METRICS,
    Line,
    Measured,
    Paper,
    make_line,
    measure,
    paper_centers,
    paper_number,
    read_paper,
    wrong_means,
)
from reproduce.analysis.layout import (
    LEGEND,
    ONE_TRAINING_LEGEND,
    PAIRED_LEGEND,
    TRAININGS_LEGEND,
    Frame,
    make_sheet,
)
from reproduce.analysis.render import (
    Sheet,
    escape_latex,
    to_csv,
    to_latex,
    to_markdown,
    write_table,
)
from reproduce.analysis.rows import THRESHOLDS, ResultKey, Rows
from utils.stages import STAGES

THRESHOLD_TEXTS = {
    "target": "Threshold target: each target center's own, from centers.toml",
    "source-val": "Threshold source-val: chosen on held-out cases of the source centers only",
}
OTHER_CENTERS = (
    "These centers are not the paper's three: its means are shown for reference, not comparable."
)
ONE_THRESHOLD = "Threshold 0.5"
NOT_COMPARABLE = "budget not comparable"
Place = tuple[str, str, str]  # threshold, row, center
Keys = Mapping[Place, tuple[ResultKey, ...]]  # an evaluation for each seed


@dataclass(frozen=True)
class TableRow:
    """One row: its name in the paper, and the results that fill it. No stage: not built yet."""

    name: str
    stage: str | None = None
    method: str = "ours"
    roi_source: str = "seg"
    folds: bool = False
    note: str = ""


# Rows, row -> its results of threshold target (one a center), paper -> lines, their sheet, a note
Extra = Callable[[Rows, Mapping[str, Sequence[ResultKey]], Paper], tuple[list[Line], Sheet, str]]


@dataclass(frozen=True)
class Table:
    """One table of the paper; `paper` names its file in `paper/` ("": it has no such numbers)."""

    name: str
    title: str
    paper: str
    rows: tuple[TableRow, ...]
    baseline: str | None = None  # the row that the others are compared with, case by case
    extra: Extra | None = None

    @property
    def thresholds(self) -> tuple[str, ...]:
        """The ways to choose a threshold that differ: both for the tumor, one for the pancreas."""
        stages = [STAGES[row.stage] for row in self.rows if row.stage is not None]
        return THRESHOLDS if any(s.target == "tumor" for s in stages) else THRESHOLDS[:1]


@dataclass(frozen=True)
class Report:
    """A table as it is printed and written."""

    name: str
    title: str
    lines: tuple[Line, ...]
    sheets: tuple[Sheet, ...]
    notes: tuple[str, ...]
    missing: Keys
    commands: tuple[str, ...] = ()  # what fills the missing results, in order

    @property
    def markdown(self) -> str:
        """The whole report."""
        parts = [f"## {self.title}\n", *(to_markdown(sheet) for sheet in self.sheets)]
        parts.append("\n".join(f"- {note}" for note in self.notes) + "\n")
        if self.missing:
            listed = [f"- {line}" for line in name_missing(self.missing)]
            parts.append("\n".join(["### Missing results", "", *listed, ""]))
        if self.commands:
            text = "These commands fill them, in this order; an interrupted training resumes"
            parts.append("\n".join([f"{text}:\n", "```bash", *self.commands, "```\n"]))
        return "\n".join(parts)

    @property
    def latex(self) -> str:
        r"""Tables to \input, with \usepackage{booktabs,graphicx}; comments name what is missing."""
        head = [r"% needs \usepackage{booktabs,graphicx}"]
        head += [f"% missing: {line}" for line in name_missing(self.missing)]
        notes = [rf"\item {escape_latex(note)}" for note in self.notes]
        tail = [r"\begin{itemize}\footnotesize", *notes, r"\end{itemize}"]
        titled = [replace(sheet, title=f"{self.title}. {sheet.title}") for sheet in self.sheets]
        return "\n".join([*head, *map(to_latex, titled), *tail]) + "\n"

    @property
    def csv(self) -> str:
        """A line per number."""
        return to_csv(LINE_COLUMNS, [asdict(line) for line in self.lines])

    def write(self, out: Path) -> None:
        """Write NAME.md, NAME.csv and NAME.tex into `out`."""
        write_table(out, self.name, self.markdown, self.latex, self.csv)


def table_keys(
    table: Table, targets: Sequence[str], seeds: Sequence[int], thresholds: Sequence[str]
) -> dict[Place, tuple[ResultKey, ...]]:
    """The results of a table by place, one for each seed; rows that are not built have none."""
    return {
        (threshold, row.name, target): tuple(
            ResultKey(
                stage=row.stage,
                target=target,
                method=row.method,
                seed=seed,
                roi_source=row.roi_source,
                threshold=threshold,
                folds=row.folds,
            )
            for seed in seeds
        )
        for threshold in thresholds
        for row in table.rows
        if row.stage is not None
        for target in targets
    }


def thresholds_of(table: Table, holdout: float) -> tuple[str, ...]:
    """Those that can be run: `source-val` needs cases that were held out."""
    return table.thresholds if holdout > 0 else THRESHOLDS[:1]


def make_report(table: Table, rows: Rows, keys: Keys) -> Report:
    """The report of the results in `rows`; `keys`: what `table_keys` gives.

    It shows the centers and the thresholds that the places of `keys` name. A place with a missing
    result, for any of its seeds, has no number, and neither has its mean.
    """
    paper = read_paper(table.paper) if table.paper else {}
    targets = tuple(dict.fromkeys(center for _, _, center in keys))
    thresholds = tuple(dict.fromkeys(threshold for threshold, _, _ in keys))
    found, missing, warnings = _measure_places(rows, keys)
    lines = [
        line for name in thresholds for line in _make_lines(table, name, found, paper, targets)
    ]
    frame = Frame(tuple(row.name for row in table.rows), targets, table.baseline)
    sheets = tuple(
        make_sheet(
            _threshold_text(table, threshold),
            [line for line in lines if line.threshold == threshold],
            frame,
        )
        for threshold in thresholds
    )
    short = short_trained(table, rows)
    sheets = tuple(mark_rows(sheet, short) for sheet in sheets)
    several = any(len(of_seeds) > 1 for of_seeds in keys.values())
    notes = (
        *_fixed_notes(table, paper, targets, several),
        *budget_notes(short),
        *warnings,
        *_comparison_notes(lines),
    )
    report = Report(table.name, table.title, tuple(lines), sheets, notes, missing)
    return report if table.extra is None else _with_extra(table, report, rows, keys)


def short_trained(table: Table, rows: Rows) -> dict[str, str]:
    """Rows of external methods that had less than their authors' training, with both numbers."""
    found = {}
    for row in table.rows:
        network = rows.networks.get((row.method, str(row.stage)))
        if network is not None and not network.comparable:
            found[row.name] = (
                f"each network has trained {network.iterations} iterations, its authors' "
                f"{network.own_iterations}"
            )
    return found


def budget_notes(short: dict[str, str]) -> tuple[str, ...]:
    """A sentence for each reason in `short` (of `short_trained`), which names all its rows."""
    rows_of: dict[str, list[str]] = {}
    for row, why in short.items():
        rows_of.setdefault(why, []).append(row)
    return tuple(f"{', '.join(rows)}: {NOT_COMPARABLE}: {why}." for why, rows in rows_of.items())


def mark_rows(sheet: Sheet, names: Collection[str]) -> Sheet:
    """The sheet with a mark behind the names of some rows."""
    groups = tuple(
        replace(
            group,
            lines=tuple(
                (f"{first} ({NOT_COMPARABLE})" if first in names else first, *others)
                for first, *others in group.lines
            ),
        )
        for group in sheet.groups
    )
    return replace(sheet, groups=groups)


def _with_extra(table: Table, report: Report, rows: Rows, keys: Keys) -> Report:
    assert table.extra is not None
    by_row = {
        row.name: tuple(
            of_seeds[0]
            for (threshold, name, _), of_seeds in keys.items()
            if (threshold, name) == (THRESHOLDS[0], row.name)
        )
        for row in table.rows
    }
    lines, sheet, note = table.extra(rows, by_row, read_paper(table.paper))
    return replace(
        report,
        lines=(*report.lines, *lines),
        sheets=(*report.sheets, sheet),
        notes=(*report.notes, note),
    )


def _measure_places(
    rows: Rows, keys: Keys
) -> tuple[dict[Place, Measured], dict[Place, tuple[ResultKey, ...]], list[str]]:
    """What was measured, what is missing, and what a reader has to know, by place."""
    found: dict[Place, Measured] = {}
    missing: dict[Place, tuple[ResultKey, ...]] = {}
    warnings: list[str] = []
    for place, of_seeds in keys.items():
        absent = tuple(key for key in of_seeds if rows.select(key) is None)
        if absent:
            missing[place] = absent
            continue
        try:
            part = measure([rows.select(key) or () for key in of_seeds])
        except ValueError as error:
            warnings.append(f"{_name_place(place)} is left out: {error}.")
            continue
        if part is None:
            warnings.append(f"{_name_place(place)} is left out: no case has a label.")
            continue
        found[place] = part
        warnings += _warnings(place, part)
    return found, missing, warnings


def name_missing(missing: Keys) -> list[str]:
    """A sentence for each row and threshold that lacks results: of which centers and seeds."""
    names: dict[tuple[str, str], list[str]] = {}
    for (threshold, row, center), keys in missing.items():
        seeds = ", ".join(str(key.seed) for key in keys)
        names.setdefault((threshold, row), []).append(f"{center} (seed {seeds})")
    return [
        f"{row}, threshold {threshold}: {', '.join(places)}"
        for (threshold, row), places in names.items()
    ]


def _threshold_text(table: Table, threshold: str) -> str:
    return ONE_THRESHOLD if len(table.thresholds) == 1 else THRESHOLD_TEXTS[threshold]


def _make_lines(
    table: Table,
    threshold: str,
    found: Mapping[Place, Measured],
    paper: Paper,
    targets: Sequence[str],
) -> list[Line]:
    """Every number of a threshold: rows x metrics x (centers and their mean)."""
    lines = []
    for row, metric in product(table.rows, ALL_METRICS):
        compared = table.baseline not in (None, row.name)
        for center in (*targets, MEAN):
            names = targets if center == MEAN else (center,)
            parts = [found.get((threshold, row.name, name)) for name in names]
            before = [found.get((threshold, str(table.baseline), name)) for name in names]
            printed = paper_number(paper, row.name, center, metric)
            place = (threshold, row.name, center, metric)
            lines.append(make_line(place, parts, before if compared else None, printed))
    return lines


def _fixed_notes(
    table: Table, paper: Paper, targets: Sequence[str], several_seeds: bool
) -> list[str]:
    notes = [LEGEND, TRAININGS_LEGEND if several_seeds else ONE_TRAINING_LEGEND]
    if table.baseline is not None:
        notes.append(PAIRED_LEGEND.format(table.baseline))
    if paper and {target.lower() for target in targets} != paper_centers(paper):
        notes.append(OTHER_CENTERS)
    notes += [*wrong_means(paper), *(f"{row.name}: {row.note}." for row in table.rows if row.note)]
    unbuilt = [row.name for row in table.rows if row.stage is None]
    if unbuilt:
        notes.append(f"Not built yet, so only the paper's numbers: {', '.join(unbuilt)}.")
    return notes


def _comparison_notes(lines: Sequence[Line]) -> list[str]:
    """Why rows could not be compared: each reason once, with where it holds."""
    centers: dict[tuple[str, str, str, str], list[str]] = {}
    for line in lines:
        if line.note is not None and line.metric in METRICS:
            key = (line.threshold, line.row, line.note, METRICS[line.metric])
            centers.setdefault(key, []).append(line.center)
    metrics: dict[tuple[str, str, str, str], list[str]] = {}
    for (threshold, row, note, metric), names in centers.items():
        place = (threshold, row, note, ", ".join(names))
        metrics.setdefault(place, []).append(metric.partition(" ")[0])
    return [
        f"{row}, {where}, threshold {threshold}, {', '.join(names)}: {note}."
        for (threshold, row, note, where), names in metrics.items()
    ]


def _warnings(place: Place, part: Measured) -> list[str]:
    notes = []
    if part.empty_labels:
        names = ", ".join(part.empty_labels)
        notes.append(f"{_name_place(place)}: the label is empty in {names}; counted as a miss.")
    if part.unlabeled:
        notes.append(f"{_name_place(place)}: {part.unlabeled} cases have no label, not counted.")
    return notes


def _name_place(place: Place) -> str:
    threshold, row, center = place
    return f"{row}, {center}, threshold {threshold}"
