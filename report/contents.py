"""What a report page shows, as data: cases, results, tables, curves, facts.

`report/results.py` makes it of an evaluation or an experiment, `predict.py` of the cases it has
predicted; `report/page.py` writes the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.case import Triple
from reproduce.analysis.render import Sheet

PANCREAS, TUMOR = "pancreas", "tumor"


@dataclass(frozen=True)
class Layer:
    """One result's mask of a case. `name`: as the page shows it; `target`: "pancreas" or "tumor";
    `mask`: bool (z, y, x) on the case's canonical grid.
    """

    name: str
    target: str
    mask: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class CaseImages:
    """The arrays of a case, all (z, y, x) in the canonical orientation (x left, y back, z head).

    `image_hu`: int16, HU. `spacing`: mm, (z, y, x). `label`: uint8 with 0, 1 (pancreas), 2 (tumor),
    or None. `layers`: in the order of the stages; of each target the last one is shown at first.
    """

    image_hu: np.ndarray = field(repr=False)
    spacing: Triple
    label: np.ndarray | None = field(default=None, repr=False)
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        for name, array in (("label", self.label), *((la.name, la.mask) for la in self.layers)):
            if array is not None and array.shape != self.image_hu.shape:
                raise ValueError(f"{name} is {array.shape}, its image {self.image_hu.shape}")
        for layer in self.layers:
            if layer.target not in (PANCREAS, TUMOR):
                raise ValueError(f"{layer.name}: target {layer.target!r} is not pancreas or tumor")


@dataclass(frozen=True)
class ReportCase:
    """A case of the page. `load` reads its arrays, which are not kept; None: there are none.

    `warnings`: a sentence each, such as what the reader fixed.
    """

    case_id: str
    center: str = ""
    load: Callable[[], CaseImages] | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResultRows:
    """The measures of one stage or one evaluation: a row for each case.

    A row holds `case_id`, `center` and measures: those of cases.csv under their names there (see
    `report/columns.py`), and any other numbers or short texts under the names that are shown.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ReportTable:
    """A table with its notes, as `reproduce/` lays it out."""

    title: str
    sheets: tuple[Sheet, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """Lines over the same epochs. `log`: the vertical axis is logarithmic."""

    title: str
    epochs: Sequence[float]
    lines: Mapping[str, Sequence[float]]
    unit: str = ""
    log: bool = False


@dataclass(frozen=True)
class Contents:
    """A whole page. `results[0]` is what it opens with; by it the best and worst cases are chosen.

    `curves_note`: which trainings the curves are of, where these are not all.
    `facts`: what stands at its foot besides the version, such as the command; `checkpoints`: name
    of a network -> sha256 of its file. Raises ValueError for a result of an unknown case.
    """

    title: str
    cases: Sequence[ReportCase]
    results: Sequence[ResultRows]
    lead: Sequence[str] = ()
    tables: Sequence[ReportTable] = ()
    curves: Sequence[Curve] = ()
    curves_note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [(case.center, case.case_id) for case in self.cases]
        twice = sorted({name for name in names if names.count(name) > 1}) if names else []
        if twice:
            raise ValueError(f"{twice[0][1]} of center {twice[0][0]!r} is listed twice")
        known = set(names)
        for result in self.results:
            for row in result.rows:
                if (row.get("center", ""), row["case_id"]) not in known:
                    raise ValueError(f"{result.name}: {row['case_id']} is no case of the page")
