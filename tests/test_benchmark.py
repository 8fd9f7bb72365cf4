"""The benchmark's report, from result folders whose numbers the tests chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.centers import load_centers
from reproduce.analysis.benchmark import (
    CLAIM_DSC,
    benchmark_markdown,
    coarse_markdown,
    measure_benchmark,
    measure_dice,
    seeds_markdown,
    verdict_markdown,
)
from reproduce.analysis.compare import MEAN, METRICS, Line
from reproduce.analysis.paper_tables import TABLE5 as TABLE
from reproduce.analysis.paper_tables import TABLE5_METHODS as VARIANTS
from reproduce.analysis.run_table import report_table
from reproduce.experiments.cells import Plan
from tests._table_fixtures import cell, fill, fill_model, make_plan, make_rows, markdown_cells

NAMES = ("A", "B", "C")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, NAMES)


# The coarse stage


def fill_coarse(plan: Plan, target: str, variant: str, dscs: Sequence[float], seed: int) -> None:
    fill(
        plan,
        cell(plan, "tumor_coarse", target, method=VARIANTS[variant], seed=seed),
        make_rows(dscs),
    )


def test_a_coarse_case_counts_as_its_mean_over_the_seeds_and_no_seed_may_be_missing(
    plan: Plan,
) -> None:
    fill_coarse(plan, "A", "BL", [10, 20], seed=2022)
    fill_coarse(plan, "A", "BL", [30, 0], seed=7)
    fill_coarse(plan, "B", "BL", [50], seed=7)
    dice = measure_dice(plan, load_centers(plan.centers), NAMES, "tumor_coarse", [2022, 7])
    assert list(dice) == list(VARIANTS)
    of_a = dice["BL"]["A"]
    assert of_a is not None
    assert of_a.tolist() == [20, 10]
    assert dice["BL"]["B"] is None
    assert dice["Ours"] == {"A": None, "B": None, "C": None}


def test_the_coarse_table_pairs_each_row_with_bl_and_counts_what_is_missed() -> None:
    base = np.array([0.0, 0.5, 40.0])
    dice: dict[str, dict[str, np.ndarray | None]] = {
        "BL": {"A": base, "B": base + 20},
        "Ours": {"A": base + 5, "B": base + 25},
        "BL+DSL": {"A": base, "B": None},
    }
    lines = coarse_markdown(dice).splitlines()
    assert "| BL | 13.50 | 33.50 | 23.50 |  |  | 2 |" in lines
    assert "| Ours | 18.50 | 38.50 | 28.50 | +5.00 [5.00, 5.00] | 0.031 | 0 |" in lines
    assert "| BL+DSL | 13.50 | - | - |  |  |  |" in lines


# Seed by seed


def test_every_seed_is_compared_with_bl_of_the_same_seed(plan: Plan) -> None:
    for target in NAMES:
        for seed, base, gain in ((2022, 40.0, 6.0), (7, 60.0, -2.0)):
            fill_model(plan, target, "BL", [base, base + 2], seed=seed)
            fill_model(plan, target, "Ours", [base + gain, base + 2 + gain], seed=seed)
    fill_model(plan, "A", "BL+DSL", [1, 1], seed=7)  # not on every center
    measured = measure_benchmark(plan, load_centers(plan.centers), [2022, 7])
    (table,) = markdown_cells(seeds_markdown(measured.seeds))
    assert list(table) == ["coarse, 2022", "coarse, 7", "fine, 2022", "fine, 7"]
    assert (table["fine, 2022"]["BL"], table["fine, 7"]["BL"]) == ("41.00", "61.00")
    assert table["fine, 2022"]["Ours"] == "+6.00 [6.00, 6.00]"
    assert table["fine, 7"]["Ours"] == "-2.00 [-2.00, -2.00]"
    assert table["fine, 7"]["BL+DSL"] == "-"
    assert set(table["coarse, 7"].values()) == {"coarse, 7", "-"}


def test_only_the_targets_that_were_asked_for_are_shown_and_needed(plan: Plan) -> None:
    for variant, dsc in (("BL", 30.0), ("Ours", 37.0)):
        fill_model(plan, "B", variant, [dsc, dsc])
        fill_coarse(plan, "B", variant, [dsc - 10, dsc - 10], seed=2022)
    measured = measure_benchmark(plan, load_centers(plan.centers), [2022], ["B"])
    assert set(measured.shifts["BL"]) == {"B"}
    (by_seed,) = markdown_cells(seeds_markdown(measured.seeds))
    assert by_seed["fine, 2022"]["Ours"] == "+7.00 [7.00, 7.00]"
    (coarse,) = markdown_cells(coarse_markdown(measured.coarse))
    assert coarse["Ours"]["mean"] == "27.00"


# The claim


def claim_lines(dsc: float, asd: float = -1.0, hd: float = -2.0, p: float = 0.01) -> list[Line]:
    """The lines of the mean over centers: gains of Ours, and 5 points of each module."""
    gains = dict(zip(METRICS, (dsc, asd, hd), strict=True))
    lines = [
        Line("paper", "Ours", MEAN, metric, gain=gain, gain_low=gain - 1, gain_high=gain + 1)
        for metric, gain in gains.items()
    ]
    lines = [replace(line, p=p, pairs=60) for line in lines]
    modules = [row for row in VARIANTS if row not in ("BL", "Ours")]
    return lines + [Line("paper", row, MEAN, "dsc", gain=5.0) for row in modules]


@pytest.mark.parametrize(
    ("gain", "verb"), [(CLAIM_DSC, "reaches"), (CLAIM_DSC - 0.01, "does not reach")]
)
def test_the_claim_is_9_51_points_and_not_less(gain: float, verb: str) -> None:
    text = verdict_markdown(claim_lines(gain))
    assert (
        f"Ours - BL is +{gain:.2f} [{gain - 1:.2f}, {gain + 1:.2f}] Dice points; it {verb}" in text
    )
    assert "+9.51; significant (Wilcoxon, p = 0.01, 60 cases)." in text


def test_every_part_of_the_claim_is_judged_by_itself() -> None:
    text = verdict_markdown(claim_lines(12.0, asd=0.5, hd=-3.0, p=0.2))
    assert "ASD (mm) of Ours is not lower: +0.50 [-0.50, 1.50] mm; not significant" in text
    assert "HD (mm) of Ours is lower: -3.00" in text
    assert "each module alone adds something, Dice points over BL: BL+IDR +5.00" in text
    lines = [replace(x, gain=-0.1) if x.row == "BL+DTL" else x for x in claim_lines(12.0)]
    assert "not every module alone adds something" in verdict_markdown(lines)


def test_without_a_cell_there_is_no_verdict_on_what_needs_it() -> None:
    without = {
        row: verdict_markdown(
            [replace(x, gain=None) if x.row == row else x for x in claim_lines(12.0)]
        )
        for row in ("Ours", "BL+DTL")
    }
    assert "not every cell is there yet" in without["Ours"]
    assert "reach" not in without["Ours"]
    assert "Ours - BL is +12.00 [11.00, 13.00] Dice points; it reaches" in without["BL+DTL"]
    assert "what each module adds alone: BL+DTL is not there yet" in without["BL+DTL"]
    assert "adds something" not in without["BL+DTL"]


# The whole report


def test_the_report_begins_with_what_made_it_and_the_shift_of_bl(plan: Plan) -> None:
    rng = np.random.default_rng(1)
    for target in NAMES:
        sources = [name for name in NAMES if name != target]
        for number, variant in enumerate(VARIANTS):
            dscs = (rng.uniform(30, 40, 8) + 4 * number).tolist()
            fill_model(plan, target, variant, dscs, {n: [75.0, 85.0] for n in sources})
    report = report_table(TABLE, plan)
    centers = load_centers(plan.centers)
    measured = measure_benchmark(plan, centers, [2022])
    text = benchmark_markdown(measured, report, ["- command: `python x`"])
    order = [
        "- command: `python x`",
        "## What the shift costs BL",
        "BL loses by the shift: 80.00 where the center was seen",
        "## What the shift costs Ours",
        "## The paper's claim",
        "- protocol paper: Ours - BL is +1",  # 16 points plus the noise of 24 cases
        "## Seed by seed",
        "## Before the fine stage",
        "## Table V",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "protocol honest: not every cell is there yet" in text
