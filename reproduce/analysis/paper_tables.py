"""Tables II to VI: which results each shows, and the paper's numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from methods import EXTERNAL, METHODS
from reproduce.analysis.compare import read_paper
from reproduce.analysis.cost import cost_table
from reproduce.analysis.tables import Table, TableRow

# Row of Table V -> method.
TABLE5_METHODS = {m.table5: name for name, m in METHODS.items() if m.table5 is not None}
ROW_NAMES = {method: row for row, method in TABLE5_METHODS.items()}
ROW_NAMES |= {name: method.row for name, method in EXTERNAL.items()}

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
# What each row's own coarse stage hands to its fine stage; the paper prints no such numbers.
TABLE5_COARSE = Table(
    name="table5_coarse",
    title="Before the fine stage: the rows of Table V, C-Seg",
    paper="",
    rows=tuple(replace(row, stage="tumor_coarse") for row in TABLE5.rows),
    baseline="BL",
)
# To choose a setting on: the stage that finds a lesion, in the pancreas of the labels, so that no
# other training has a part in it.
TRIAL = replace(
    TABLE5_COARSE,
    name="trial",
    title="A trial: the rows of Table V at the coarse tumor stage, C-Mask",
    rows=tuple(replace(row, roi_source="mask") for row in TABLE5_COARSE.rows),
)
# Row of Table VI -> method, and what a reader must know of it.
_SYSTEMS: Mapping[str, Any] = {**METHODS, **EXTERNAL}
TABLE6_METHODS = {m.table6: name for name, m in _SYSTEMS.items() if m.table6 is not None}
TABLE6_NOTES = {
    "BigAug": "Table V's BL, the same run; the two are identical in all 12 numbers in the paper",
    **{
        str(method.table6): "sees whole images, no region of interest; labels, so no threshold"
        for method in EXTERNAL.values()
    },
}
# Systems that are not ours and that the paper lacks.
TABLE6_MORE = tuple(
    TableRow(
        method.row,
        "tumor_fine",
        method=name,
        note="not in the paper; it tells the system from the region of interest",
    )
    for name, method in EXTERNAL.items()
    if method.table6 is None
)
TABLE6 = Table(
    name="table6",
    title="Table VI: comparison with other systems, tumor, F-Seg",
    paper="table6_comparison",
    rows=tuple(
        TableRow(row, "tumor_fine", method=TABLE6_METHODS[row], note=TABLE6_NOTES.get(row, ""))
        if row in TABLE6_METHODS
        else TableRow(row)
        for row in read_paper("table6_comparison")
    )
    + TABLE6_MORE,
    extra=cost_table,
)
TABLES: Mapping[str, Table] = {t.name: t for t in (TABLE2, TABLE3, TABLE4, TABLE5, TABLE6)}
