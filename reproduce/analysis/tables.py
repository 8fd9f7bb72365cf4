"""What a table is, and how each of the scripts beside this file prints and writes its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from data.case import Center
from engine.case_metrics import Row
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
from reproduce.analysis.layout import LEGEND, PAIRED_LEGEND, Frame, make_sheet
from reproduce.analysis.render import (
    Sheet,
    escape_latex,
    to_csv,
    to_latex,
    to_markdown,
    write_table,
)
from reproduce.experiments.cells import SEED, Cell, Plan, lesion_centers, make_cell
from utils.stages import STAGES

PROTOCOLS = {
    "paper": "Protocol paper: each target center's threshold from centers.toml",
    "honest": "Protocol honest: threshold chosen on held-out cases of the source centers only",
}
OTHER_CENTERS = (
    "These centers are not the paper's three: its means stand here to be seen, not to be compared "
    "with."
)
THRESHOLDS = {"paper": "target", "honest": "source-val"}
ONE_THRESHOLD = "Protocols paper and honest: threshold 0.5 in both"
Place = tuple[str, str, str]  # protocol, row, center
Cells = Mapping[Place, tuple[Cell, ...]]  # a cell for each seed


@dataclass(frozen=True)
class TableRow:
    """One row: its name in the paper, and the cells that fill it. No stage: not built yet."""

    name: str
    stage: str | None = None
    method: str = "ours"
    roi_source: str = "seg"
    folds: bool = False
    note: str = ""


# Plan, row -> its cells of protocol paper, the paper's numbers -> more lines, their sheet, a note
Extra = Callable[[Plan, Mapping[str, tuple[Cell, ...]], Paper], tuple[list[Line], Sheet, str]]


@dataclass(frozen=True)
class Table:
    """One table of the paper; `paper` names its file in `paper/`."""

    name: str
    title: str
    paper: str
    rows: tuple[TableRow, ...]
    baseline: str | None = None  # the row that the others are compared with, case by case
    extra: Extra | None = None

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that differ: both for the tumor, one for the pancreas."""
        stages = [STAGES[row.stage] for row in self.rows if row.stage is not None]
        return tuple(PROTOCOLS) if any(s.target == "tumor" for s in stages) else ("paper",)


@dataclass(frozen=True)
class Report:
    """A table as it is printed and written."""

    name: str
    title: str
    lines: tuple[Line, ...]
    sheets: tuple[Sheet, ...]
    notes: tuple[str, ...]
    missing: Cells
    commands: tuple[str, ...] = ()  # what fills the missing cells, in order

    @property
    def markdown(self) -> str:
        """The whole report."""
        parts = [f"## {self.title}\n", *(to_markdown(sheet) for sheet in self.sheets)]
        parts.append("\n".join(f"- {note}" for note in self.notes) + "\n")
        if self.missing:
            listed = [f"- {line}" for line in name_missing(self.missing)]
            parts.append("\n".join(["### Missing cells", "", *listed, ""]))
        if self.commands:
            text = "These commands fill them, in this order; a training goes on where it was killed"
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


def table_cells(
    table: Table,
    centers: Mapping[str, Center],
    targets: Sequence[str] | None = None,
    seeds: Sequence[int] = (SEED,),
    protocols: Sequence[str] | None = None,
) -> dict[Place, tuple[Cell, ...]]:
    """The cells of a table by place, one for each seed; rows that are not built have none.

    `targets`: the centers to show (None: all with lesions); `protocols`: None for all of its own.
    """
    return {
        (protocol, row.name, target): tuple(
            make_cell(
                centers,
                row.stage,
                target,
                method=row.method,
                roi_source=row.roi_source,
                folds=row.folds,
                threshold=THRESHOLDS[protocol],
                seed=seed,
            )
            for seed in seeds
        )
        for protocol in (table.protocols if protocols is None else protocols)
        for row in table.rows
        if row.stage is not None
        for target in (lesion_centers(centers) if targets is None else targets)
    }


def protocols_of(table: Table, holdout: float) -> tuple[str, ...]:
    """The protocols that can be run: `honest` needs cases that were held out."""
    return table.protocols if holdout > 0 else ("paper",)


def make_report(table: Table, cells: Cells, read: Callable[[Cell], Sequence[Row] | None]) -> Report:
    """The report of the cells that `read` finds (rows of cases.csv; None: missing).

    It shows the centers and the protocols that the places of `cells` name. A place with a missing
    cell, for any of its seeds, has no number, and neither has its mean.
    """
    paper = read_paper(table.paper)
    targets = tuple(dict.fromkeys(center for _, _, center in cells))
    protocols = tuple(dict.fromkeys(protocol for protocol, _, _ in cells))
    missing: dict[Place, tuple[Cell, ...]] = {}
    found: dict[Place, Measured] = {}
    oddities: list[str] = []
    for place, of_seeds in cells.items():
        rows = {cell: read(cell) for cell in of_seeds}
        absent = tuple(cell for cell, its_rows in rows.items() if its_rows is None)
        if absent:
            missing[place] = absent
            continue
        try:
            part = measure([its_rows for its_rows in rows.values() if its_rows is not None])
        except ValueError as error:
            oddities.append(f"{_name_place(place)} is left out: {error}.")
            continue
        if part is None:
            oddities.append(f"{_name_place(place)} is left out: no case has a label.")
            continue
        found[place] = part
        oddities += _oddities(place, part)
    lines = [line for name in protocols for line in _make_lines(table, name, found, paper, targets)]
    frame = Frame(tuple(row.name for row in table.rows), targets, table.baseline)
    return Report(
        table.name,
        table.title,
        tuple(lines),
        tuple(
            make_sheet(
                _protocol_text(table, protocol),
                [line for line in lines if line.protocol == protocol],
                frame,
            )
            for protocol in protocols
        ),
        (*_fixed_notes(table, paper, targets), *oddities, *_comparison_notes(lines)),
        missing,
    )


def name_missing(missing: Cells) -> list[str]:
    """A sentence for each row and protocol that lacks cells: of which centers and seeds."""
    names: dict[tuple[str, str], list[str]] = {}
    for (protocol, row, center), cells in missing.items():
        seeds = ", ".join(str(cell.seed) for cell in cells)
        names.setdefault((protocol, row), []).append(f"{center} (seed {seeds})")
    return [
        f"{row}, protocol {protocol}: {', '.join(places)}"
        for (protocol, row), places in names.items()
    ]


def _protocol_text(table: Table, protocol: str) -> str:
    return ONE_THRESHOLD if len(table.protocols) == 1 else PROTOCOLS[protocol]


def _make_lines(
    table: Table,
    protocol: str,
    found: Mapping[Place, Measured],
    paper: Paper,
    targets: Sequence[str],
) -> list[Line]:
    """Every number of a protocol: rows x metrics x (centers and their mean)."""
    lines = []
    for row, metric in product(table.rows, ALL_METRICS):
        compared = table.baseline not in (None, row.name)
        for center in (*targets, MEAN):
            names = targets if center == MEAN else (center,)
            parts = [found.get((protocol, row.name, name)) for name in names]
            before = [found.get((protocol, str(table.baseline), name)) for name in names]
            printed = paper_number(paper, row.name, center, metric)
            place = (protocol, row.name, center, metric)
            lines.append(make_line(place, parts, before if compared else None, printed))
    return lines


def _fixed_notes(table: Table, paper: Paper, targets: Sequence[str]) -> list[str]:
    notes = [LEGEND]
    if table.baseline is not None:
        notes.append(PAIRED_LEGEND.format(table.baseline))
    if {target.lower() for target in targets} != paper_centers(paper):
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
            key = (line.protocol, line.row, line.note, METRICS[line.metric])
            centers.setdefault(key, []).append(line.center)
    metrics: dict[tuple[str, str, str, str], list[str]] = {}
    for (protocol, row, note, metric), names in centers.items():
        place = (protocol, row, note, ", ".join(names))
        metrics.setdefault(place, []).append(metric.partition(" ")[0])
    return [
        f"{row}, {where}, protocol {protocol}, {', '.join(names)}: {note}."
        for (protocol, row, note, where), names in metrics.items()
    ]


def _oddities(place: Place, part: Measured) -> list[str]:
    notes = []
    if part.empty_labels:
        names = ", ".join(part.empty_labels)
        notes.append(f"{_name_place(place)}: the label is empty in {names}; counted as a miss.")
    if part.unlabeled:
        notes.append(f"{_name_place(place)}: {part.unlabeled} cases have no label, not counted.")
    return notes


def _name_place(place: Place) -> str:
    protocol, row, center = place
    return f"{row}, {center}, protocol {protocol}"
