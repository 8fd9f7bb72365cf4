"""The first lines of docs/results.md, of gains that the tests chose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reproduce.analysis.claim import (
    Gains,
    centers_sentence,
    claim_table,
    counted_interval,
    modules_sentence,
    paper_sentence,
    show_claim,
    show_verdict,
    sureness_sentence,
    verdict_sentence,
)
from reproduce.analysis.compare import MEAN, Line
from reproduce.analysis.page import Page
from tests._rows_fixtures import key, make_cases, make_rows, write_experiment

Place = tuple[str, str, str]  # stage, threshold, center


def line(low: float, high: float, seeds: int = 1, **more: Any) -> Line:
    """A gain with its interval over cases, in the middle of it."""
    gain = (low + high) / 2
    made = Line("", "", "", "dsc", gain=gain, gain_low=low, gain_high=high, seeds=seeds)
    return replace(made, **more)


def gains(lines: dict[Place, Line], centers: tuple[str, ...] = ("A", "B")) -> Gains:
    return Gains({(s, t, "Ours", c): of for (s, t, c), of in lines.items()}, centers)


ONE = gains(
    {
        ("coarse", "target", MEAN): line(3, 9),
        ("coarse", "target", "A"): line(1, 9),
        ("coarse", "target", "B"): line(-4, -1),
        ("fine", "target", MEAN): line(-0.1, 7),
        ("fine", "target", "A"): line(1, 2),
        ("fine", "target", "B"): line(2, 3),
        ("fine", "source-val", MEAN): line(2, 12),
        ("fine", "source-val", "A"): line(1, 2),
        ("fine", "source-val", "B"): line(2, 3),
    }
)


def test_a_verdict_is_what_the_interval_shows_and_what_is_missing_is_said() -> None:
    assert verdict_sentence(ONE) == (
        "On unseen centers Ours is above BL after the coarse stage (threshold target) and the fine "
        "stage (threshold source-val); not shown to differ from BL after the fine stage (threshold "
        "target); not measured after the coarse stage (threshold source-val)."
    )
    below = gains({("fine", "target", MEAN): line(-3, -1)}, ())
    assert verdict_sentence(below).startswith("On unseen centers Ours is below BL after the fine")
    few = gains({("fine", "target", MEAN): Line("", "", "", "dsc", gain=3.0, seeds=1)}, ())
    assert "not tested against BL, for too few cases, after" in verdict_sentence(few)


def test_with_several_trainings_their_interval_is_the_one_that_counts() -> None:
    several = line(3, 9, seeds=2, gain_low_trainings=-1.0, gain_high_trainings=13.0)
    assert counted_interval(several) == (-1.0, 13.0)
    found = gains({("fine", "target", MEAN): several}, ())
    assert "not shown to differ from BL after the fine" in verdict_sentence(found)
    assert "is in the interval of threshold target." in paper_sentence(found)
    assert claim_table(found)[-1].startswith("| fine, target | +6.00 [-1.00, 13.00] |")


@pytest.mark.parametrize(
    ("seeds", "start", "end"),
    [
        ((1, 1), "one training of BL and Ours for each center", "may come out otherwise."),
        ((2, 2), "2 trainings of BL and Ours for each center; 95 %", "over trainings and cases."),
        ((2, 3), "2 to 3 trainings of BL and Ours for each center", "over trainings and cases."),
        ((1, 3), "1 to 3 trainings of BL and Ours for each center", "may come out otherwise."),
    ],
)
def test_how_sure_it_is_follows_the_number_of_trainings(
    seeds: tuple[int, int], start: str, end: str
) -> None:
    coarse, fine = seeds
    places = {("coarse", "target", MEAN): line(1, 2, coarse)}
    text = sureness_sentence(gains({**places, ("fine", "target", MEAN): line(1, 2, fine)}, ()))
    assert text.startswith(start)
    assert text.endswith(end)


def test_the_papers_gain_is_beside_the_fine_stages_intervals() -> None:
    assert paper_sentence(ONE) == (
        "its gain after the fine stage, +9.51 on three hospitals, is above the interval of "
        "threshold target and in the interval of threshold source-val."
    )
    high = gains({("fine", "target", MEAN): line(10, 12)}, ())
    assert "is below the interval of threshold target." in paper_sentence(high)
    coarse = gains({("coarse", "target", MEAN): line(10, 12)}, ())
    assert paper_sentence(coarse).endswith("; not measured here.")


def test_each_center_has_its_verdict_and_its_column() -> None:
    assert centers_sentence(ONE) == (
        "after the coarse stage (threshold target) above BL on A, below BL on B; after the fine "
        "stage (threshold target) above BL on A and B."
    )
    table = claim_table(ONE)
    assert table[0].startswith("| Ours - BL: stage, threshold | mean [95 %] | A | B | p, Wilcoxon")
    assert table[2].startswith("| coarse, target | +6.00 [3.00, 9.00] | +5.00 [1.00, 9.00] | -2.50")
    assert len(table) == 5


def test_modules_have_their_gains_or_are_named() -> None:
    assert modules_sentence(ONE) == "not measured (BL+IDR, BL+DTL, BL+DSL)."
    lines = dict(ONE.lines) | {("fine", "target", "BL+DTL", MEAN): line(1, 2)}
    assert modules_sentence(Gains(lines, ("A", "B"))) == (
        "threshold target: BL+DTL +1.50 [1.00, 2.00]; not measured (BL+IDR, BL+DSL); "
        "of BL+DTL one training each, so intervals over cases alone."
    )
    lines |= {("fine", "target", "BL+DTL", MEAN): line(1, 2, seeds=2)}
    assert modules_sentence(Gains(lines, ("A", "B"))).endswith("; of BL+DTL 2 trainings each.")


def test_the_claim_of_an_experiment_uses_the_seeds_that_both_rows_have(tmp_path: Path) -> None:
    found = {}
    for stage, by in (("tumor_coarse", 5.0), ("tumor_fine", -2.0)):
        for seed in (1, 2):
            found[key(stage, "A", "ours", seed)] = make_cases([30 + by, 40 + by * seed])
        found[key(stage, "A", "bl", 1)] = make_cases([30.0, 40.0])
    write_experiment(tmp_path / "mine", make_rows(found, ("A",)))
    text = show_claim(Page(tmp_path), "mine")
    assert text.splitlines()[0] == (
        "**On unseen centers Ours is above BL after the coarse stage (threshold target); below BL "
        "after the fine stage (threshold target).**"
    )
    assert "| coarse, target | +5.00 [5.00, 5.00] | +5.00 [5.00, 5.00] |" in text
    assert text.endswith(" | 1 |")
    words = show_verdict(Page(tmp_path), "mine")
    assert "below BL after the fine stage (threshold target). One training of BL and Ours" in words
