"""Tables II to VI: which results each shows, and the paper's numbers beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from methods import EXTERNAL, METHODS
from reproduce.analysis.compare import read_paper
from reproduce.analysis.cost import cost_table
from reproduce.analysis.tables import Table, TableRow

# Row of Table V, of Table VI, and of none of the paper's -> method.
TABLE5_METHODS = {m.table5: name for name, m in METHODS.items() if m.table5 is not None}
_SYSTEMS: Mapping[str, Any] = {**METHODS, **EXTERNAL}
TABLE6_METHODS = {m.table6: name for name, m in _SYSTEMS.items() if m.table6 is not None}
EXTRA_METHODS = {m.extra_row: name for name, m in METHODS.items() if m.extra_row is not None}
EXTRA_METHODS |= {m.row: name for name, m in EXTERNAL.items() if m.table6 is None}
ROW_METHODS = {**EXTRA_METHODS, **TABLE6_METHODS, **TABLE5_METHODS}
ROW_NAMES = {method: row for row, method in ROW_METHODS.items()}  # BL is BL, not BigAug
COARSE = "tumor_coarse"

TABLE2 = Table(
    name="table2",
    title="Table II: generalized pancreas segmentation",
    paper="table2_pancreas_generalized",
    rows=(TableRow("Coarse", "pancreas_coarse"), TableRow("Fine", "pancreas_fine")),
)
TABLE3 = Table(
    name="table3",
    title="Table III: generalized tumor segmentation",
    paper="table3_tumor_generalized",
    rows=(
        TableRow("C-Seg", "tumor_coarse"),
        TableRow("F-Seg", "tumor_fine"),
        TableRow("C-Mask", "tumor_coarse", roi_source="mask"),
        TableRow("F-Mask", "tumor_fine", roi_source="mask"),
    ),
)
TABLE4 = Table(
    name="table4",
    title="Table IV: tumor segmentation, four-fold cross-validation in each center",
    paper="table4_tumor_fourfold",
    rows=tuple(replace(row, folds=True) for row in TABLE3.rows),
)
TABLE5 = Table(
    name="table5",
    title="Table V: ablation, tumor, F-Seg",
    paper="table5_ablation",
    rows=tuple(
        TableRow(row, "tumor_fine", method=method) for row, method in TABLE5_METHODS.items()
    ),
    baseline="BL",
)


def before_fine(table: Table) -> Table:
    """What each row's own coarse stage hands to its fine stage; the paper prints no such numbers.

    Systems that have one stage stay as they are.
    """
    rows = [
        row if row.stage is None or row.method in EXTERNAL else replace(row, stage=COARSE)
        for row in table.rows
    ]
    number = table.title.partition(":")[0]
    return replace(
        table,
        name=f"{table.name}_coarse",
        title=f"Before the fine stage: the rows of {number}, C-Seg",
        paper="",
        rows=tuple(rows),
        extra=None,
    )


TABLE5_COARSE = before_fine(TABLE5)
# To choose a setting on: a tumor stage in the pancreas of the labels, so that no pancreas training
# has a part in it.
TRIALS = {
    stage: replace(
        TABLE5_COARSE,
        name="trial",
        title=f"A trial: the rows of Table V at the {text}",
        rows=tuple(replace(row, stage=stage, roi_source="mask") for row in TABLE5.rows),
    )
    for stage, text in (
        ("tumor_coarse", "coarse tumor stage, C-Mask"),
        ("tumor_fine", "fine tumor stage, F-Mask"),
    )
}
EXTRA_NOTE = "no row of the paper's, shown for reference"
EXTERNAL_NOTE = "sees whole images, no region of interest; labels, so no threshold"
CROPS_NOTE = "not in the paper; it tells the system from the region of interest"


def _table6_row(row: str) -> TableRow:
    """A row of Table VI or beside it, with what a reader must know of it."""
    method = {**EXTRA_METHODS, **TABLE6_METHODS}.get(row)
    if method is None:
        return TableRow(row)
    note = EXTRA_NOTE
    if method in EXTERNAL:
        note = EXTERNAL_NOTE if row in TABLE6_METHODS else CROPS_NOTE
    elif row in TABLE6_METHODS:
        note = METHODS[method].table6_note
    return TableRow(row, "tumor_fine", method=method, note=note)


TABLE6 = Table(
    name="table6",
    title="Table VI: comparison with other systems, tumor, F-Seg",
    paper="table6_comparison",
    rows=tuple(_table6_row(row) for row in (*read_paper("table6_comparison"), *EXTRA_METHODS)),
    extra=cost_table,
)
# Every row, for what the paper does not measure.
EVERY_ROW = Table(
    name="detection",
    title="Detection",
    paper="",
    rows=tuple(
        TableRow(ROW_NAMES[method], "tumor_fine", method=method)
        for method in dict.fromkeys((*TABLE5_METHODS.values(), *METHODS))
        if method in ROW_NAMES
    ),
)
TABLES: Mapping[str, Table] = {t.name: t for t in (TABLE2, TABLE3, TABLE4, TABLE5, TABLE6)}


def order_rows(names: Iterable[str]) -> tuple[str, ...]:
    """Names of rows, each once, in the order of `EVERY_ROW`; others behind, in their own."""
    every = [row.name for row in EVERY_ROW.rows]
    given = tuple(dict.fromkeys(names))
    known = tuple(name for name in every if name in given)
    return (*known, *(name for name in given if name not in known))
