"""The benchmark's report, from cases whose numbers the tests chose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reproduce.analysis.benchmark import (
    CLAIM_DSC,
    benchmark_keys,
    benchmark_markdown,
    measure_benchmark,
    measure_dice,
    seeds_markdown,
    verdict_markdown,
)
from reproduce.analysis.compare import MEAN, METRICS, Line
from reproduce.analysis.paper_tables import TABLE5_METHODS
from tests._rows_fixtures import benchmark_rows, key, make_cases, make_rows
from tests._table_fixtures import markdown_cells

NAMES = ("A", "B", "C")
BOTH = ("target", "source-val")


# The coarse stage


def test_the_coarse_sheet_pairs_each_row_with_bl_and_counts_what_is_missed() -> None:
    base = np.array([0.0, 0.5, 40.0])
    found = {
        key("tumor_coarse", target, method): make_cases((base + by).tolist())
        for target, more in (("A", 0), ("B", 20))
        for method, by in (("bl", more), ("ours", more + 5))
    }
    found[key("tumor_coarse", "A", "bl_dsl")] = make_cases(base.tolist())
    measured = measure_benchmark(make_rows(found, ("A", "B")), ("A", "B"), [2022], BOTH)
    (table,) = markdown_cells(measured.coarse.markdown)
    ours = table["DSC (%) / Ours"]
    assert (ours["A"], ours["B"]) == ("18.50", "38.50")
    assert ours["mean [95 % interval]"].startswith("28.50 [")
    assert ours["minus BL [95 %, cases]"] == "+5.00 [5.00, 5.00]"
    assert ours["p, Wilcoxon"] == "0.031"
    assert table["DSC (%) / BL+DSL"]["mean [95 % interval]"] == "-"
    missed = table["missed (DSC below 1) / results / BL"]
    assert (missed["A"], missed["mean [95 % interval]"]) == ("2 / 3", "2 / 6")
    # The paper prints no numbers of this stage: none is beside ours.
    assert "(" not in table["DSC (%) / BL"]["mean [95 % interval]"]


# Seed by seed


def test_every_seed_is_compared_with_bl_of_the_same_seed() -> None:
    found = {}
    for target in NAMES:
        for seed, base, gain in ((2022, 40.0, 6.0), (7, 60.0, -2.0)):
            found[key("tumor_fine", target, "bl", seed)] = make_cases([base, base + 2])
            ours = make_cases([base + gain, base + 2 + gain])
            found[key("tumor_fine", target, "ours", seed)] = ours
    found[key("tumor_fine", "A", "bl_dsl", 7)] = make_cases([1, 1])  # not on every center
    measured = measure_benchmark(make_rows(found, NAMES), NAMES, [2022, 7], BOTH)
    (table,) = markdown_cells(seeds_markdown(measured.seeds))
    assert list(table) == ["coarse, 2022", "coarse, 7", "fine, 2022", "fine, 7"]
    assert (table["fine, 2022"]["BL"], table["fine, 7"]["BL"]) == ("41.00", "61.00")
    assert table["fine, 2022"]["Ours"] == "+6.00 [6.00, 6.00]"
    assert table["fine, 7"]["Ours"] == "-2.00 [-2.00, -2.00]"
    assert table["fine, 7"]["BL+DSL"] == "-"
    assert set(table["coarse, 7"].values()) == {"coarse, 7", "-"}


def test_only_the_targets_that_were_asked_for_are_shown_and_needed() -> None:
    found = {}
    for method, dsc in (("bl", 30.0), ("ours", 37.0)):
        found[key("tumor_fine", "B", method)] = make_cases([dsc, dsc])
        found[key("tumor_coarse", "B", method)] = make_cases([dsc - 10, dsc - 10])
    measured = measure_benchmark(make_rows(found, NAMES), ["B"], [2022], BOTH)
    assert set(measured.shifts["BL"]) == {"B"}
    (by_seed,) = markdown_cells(seeds_markdown(measured.seeds))
    assert by_seed["fine, 2022"]["Ours"] == "+7.00 [7.00, 7.00]"
    (coarse,) = markdown_cells(measured.coarse.markdown)
    assert coarse["DSC (%) / Ours"]["mean [95 % interval]"] == "27.00 [27.00, 27.00]"


def test_a_row_of_other_cases_than_bl_has_no_gain() -> None:
    found = {key("tumor_fine", "A", "bl"): make_cases([1, 2])}
    found[key("tumor_fine", "A", "ours")] = make_cases([1])
    dice = measure_dice(make_rows(found, ("A",)), ["A"], "tumor_fine", 2022)
    (table,) = markdown_cells(seeds_markdown({("tumor_fine", 2022): dice}))
    assert table["fine, 2022"]["Ours"] == "-"


# The claim


def claim_lines(dsc: float, asd: float = -1.0, hd: float = -2.0, p: float = 0.01) -> list[Line]:
    """The lines of the mean over centers: gains of Ours, and 5 points of each module."""
    gains = dict(zip(METRICS, (dsc, asd, hd), strict=True))
    lines = [
        Line("target", "Ours", MEAN, metric, gain=gain, gain_low=gain - 1, gain_high=gain + 1)
        for metric, gain in gains.items()
    ]
    lines = [
        replace(
            line,
            p=p,
            pairs=60,
            gain_low_trainings=line.gain - 3,
            gain_high_trainings=line.gain + 3,
            mixed=line.gain,
            mixed_low=line.gain - 2,
            mixed_high=line.gain + 2,
            mixed_p=0.0004,
        )
        for line in lines
        if line.gain is not None
    ]
    modules = [row for row in TABLE5_METHODS if row not in ("BL", "Ours")]
    return lines + [Line("target", row, MEAN, "dsc", gain=5.0) for row in modules]


@pytest.mark.parametrize(
    ("gain", "verb"), [(CLAIM_DSC, "reaches"), (CLAIM_DSC - 0.01, "does not reach")]
)
def test_the_claim_is_9_51_points_and_not_less(gain: float, verb: str) -> None:
    text = verdict_markdown(claim_lines(gain))
    assert f"Ours - BL is +{gain:.2f} [{gain - 1:.2f}, {gain + 1:.2f}] Dice points over" in text
    assert f"[{gain - 3:.2f}, {gain + 3:.2f}] over trainings and cases; it {verb}" in text
    assert "+9.51; significant over cases (Wilcoxon, p = 0.01, 60 cases); mixed model [" in text
    assert f"[{gain - 2:.2f}, {gain + 2:.2f}], p < 0.001." in text


def test_every_part_of_the_claim_is_judged_by_itself() -> None:
    text = verdict_markdown(claim_lines(12.0, asd=0.5, hd=-3.0, p=0.2))
    assert (
        "ASD (mm) of Ours is not lower: +0.50 [-0.50, 1.50] mm over cases, [-2.50, 3.50] over"
        in text
    )
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
    assert "not every result is there yet" in without["Ours"]
    assert "reach" not in without["Ours"]
    assert "Ours - BL is +12.00 [11.00, 13.00] Dice points over cases" in without["BL+DTL"]
    assert "what each module adds alone: BL+DTL is not there yet" in without["BL+DTL"]
    assert "adds something" not in without["BL+DTL"]


# The whole report


def test_the_report_begins_with_what_made_it_and_the_shift_of_bl() -> None:
    noise = np.random.default_rng(1)
    gains = {row: 4 * number for number, row in enumerate(TABLE5_METHODS)}
    base = {name: noise.uniform(30, 40, 8) for name in NAMES}
    rows = benchmark_rows(
        lambda row, target, seed: base[target] + gains[row] + noise.normal(0, 1, 8), seeds=(2022,)
    )
    measured = measure_benchmark(rows, NAMES, [2022], BOTH)
    text = benchmark_markdown(measured, measured.fine, ["- command: `python x`"])
    order = [
        "- command: `python x`",
        "## What the shift costs BL",
        "BL loses by the shift: ",
        "## What the shift costs Ours",
        "## The paper's claim",
        "- threshold target: Ours - BL is +1",  # 16 points plus the noise of 24 cases
        "one training per row: the interval holds the scatter of cases only",
        "mixed model [",
        "- threshold source-val: Ours - BL is +1",
        "## Seed by seed",
        "## Before the fine stage",
        "## Table V",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_report_reads_nothing_beside_the_keys_that_it_names() -> None:
    rng = np.random.default_rng(2)
    rows = benchmark_rows(lambda *_: rng.uniform(20, 60, 4), seeds=(1,))
    wanted = benchmark_keys(NAMES, NAMES, (1,), BOTH)
    alone = replace(rows, evaluations={of: rows.evaluations[of] for of in wanted})
    full, less = (measure_benchmark(part, NAMES, (1,), BOTH) for part in (rows, alone))
    assert full.fine == less.fine
    assert full.coarse == less.coarse
    assert all(shift for of_row in less.shifts.values() for shift in of_row.values())
