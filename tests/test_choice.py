"""A setting is chosen on held-out cases of the sources, never on a target of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reproduce.analysis.choice import SOURCES, UNSEEN, Trial, choice_markdown, compare_trials
from reproduce.analysis.rows import ResultKey
from tests._rows_fixtures import key, make_cases, make_rows

CENTERS = ("A", "B", "C")
RESERVED = "Phantoms(seed=2022)"
OTHER = "Phantoms(seed=7)"


def trial(
    name: str,
    heldout: Sequence[float],
    unseen: Sequence[float],
    phantoms: str = OTHER,
    seeds: Sequence[int] = (1, 2),
) -> Trial:
    """The same Dice in each split: of two held-out sources, and of its target."""
    found = {}
    for target in CENTERS:
        for seed in seeds:
            of = key("tumor_coarse", target, "ours", seed, roi_source="mask")
            found[of] = make_cases(unseen)
            for source in CENTERS:
                if source != target:
                    held = ResultKey(**{**vars(of), "heldout": source})
                    found[held] = make_cases([dsc + seed for dsc in heldout])
    return Trial(name, phantoms, f"--views.mode {name}", make_rows(found, CENTERS))


def test_trials_are_compared_on_the_sources_held_out_cases_and_on_other_centers() -> None:
    first = trial("printed", [10, 20, 30], [5, 6, 7])
    second = trial("as_run", [14, 25, 36], [8, 9, 10])
    lines = compare_trials([first, second], "ours", RESERVED)
    assert [(place, name) for place, name, _ in lines] == [
        (SOURCES, "printed"),
        (SOURCES, "as_run"),
        (UNSEEN, "printed"),
        (UNSEEN, "as_run"),
    ]
    base, better, unseen_base, unseen_better = (line for _, _, line in lines)
    assert base.ours == pytest.approx(21.5)  # the seeds add 1 and 2
    assert base.gain is None
    assert better.gain == pytest.approx(5)
    assert (better.cases, better.seeds) == (18, 2)  # three splits with two sources of three cases
    assert better.gain_low_trainings is not None
    assert (unseen_base.ours, unseen_better.gain) == (pytest.approx(6), pytest.approx(3))
    text = choice_markdown([first, second], lines)
    assert (
        "| held-out cases of the sources | as_run | --views.mode as_run | 2 | 18 | 26.50 | +5.00"
        in text
    )


def test_the_benchmarks_own_targets_are_not_shown() -> None:
    trials = [trial(name, [1, 2], [3, 4], phantoms=RESERVED) for name in ("one", "other")]
    lines = compare_trials(trials, "ours", RESERVED)
    assert {place for place, _, _ in lines} == {SOURCES}


def test_trials_that_do_not_compare_are_refused() -> None:
    first = trial("one", [1, 2], [3, 4])
    with pytest.raises(ValueError, match="of different phantoms"):
        compare_trials([first, trial("other", [1, 2], [3, 4], RESERVED)], "ours", RESERVED)
    with pytest.raises(ValueError, match="cases differ"):
        compare_trials([first, trial("other", [1, 2, 3], [3, 4])], "ours", RESERVED)
    rows = dict(first.rows.evaluations)
    del rows[next(of for of in rows if of.heldout and of.seed == 2)]
    part = Trial("part", OTHER, "", make_rows(rows, CENTERS))
    with pytest.raises(ValueError, match="not the same seeds of each split"):
        compare_trials([part], "ours", RESERVED)
    with pytest.raises(ValueError, match="not the same seeds of each split"):
        compare_trials([first], "bl", RESERVED)  # it has none


def test_a_trial_of_the_fine_stage_is_compared_there_and_not_at_the_coarse_one_before_it() -> None:
    trials = []
    for name, fine in (("margin", [40, 50, 60]), ("fixed", [43, 54, 65])):
        one = trial(name, [10, 20, 30], [5, 6, 7], seeds=(1,))
        found = dict(one.rows.evaluations)
        for key_ in list(found):
            found[ResultKey(**{**vars(key_), "stage": "tumor_fine"})] = make_cases(fine)
        trials.append(Trial(name, OTHER, "", make_rows(found, CENTERS)))
    lines = [line for _, _, line in compare_trials(trials, "ours", RESERVED)]
    assert [line.ours for line in lines] == pytest.approx([50, 54, 50, 54])


def test_trials_that_differ_in_few_cases_are_compared_without_a_test() -> None:
    first, second = trial("a", [10, 20, 30], [5, 6, 7]), trial("b", [10, 20, 30], [5, 6, 7])
    lines = [line for _, _, line in compare_trials([first, second], "ours", RESERVED)]
    assert [(line.gain, line.p) for line in lines if line.gain is not None] == [(0, None)] * 2
