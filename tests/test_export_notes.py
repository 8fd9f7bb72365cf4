"""Which exports experiment.json lists: those whose cases are in the folder."""

from __future__ import annotations

from typing import Any

from reproduce.analysis.export_notes import add_entry
from reproduce.analysis.rows import Rows
from tests._rows_fixtures import key, make_cases, make_rows


def rows_of(**dice: float) -> Rows:
    """Method -> the DSC of its cases on A and B."""
    return make_rows(
        {
            key("tumor_fine", t, method, 7): make_cases([d])
            for method, d in dice.items()
            for t in "AB"
        },
        ("A", "B"),
    )


def entry(commit: str, rows: str = "BL Ours", **more: Any) -> dict[str, Any]:
    command = f"python reproduce/run.py --what benchmark --rows {rows} --seeds 7 --out x"
    return {"command": command, "commit": commit, **more}


BOTH = ["A, seed 7", "B, seed 7"]


def test_an_export_whose_cases_are_all_replaced_is_dropped() -> None:
    first = add_entry([], entry("one"), Rows({}), rows_of(bl=1, ours=2))
    assert first == [entry("one", trainings={"bl": BOTH, "ours": BOTH})]
    second = add_entry(first, entry("two", "Ours"), rows_of(bl=1, ours=2), rows_of(ours=3))
    assert second == [
        entry("one", trainings={"bl": BOTH}),
        entry("two", "Ours", trainings={"ours": BOTH}),
    ]
    third = add_entry(second, entry("three", "BL"), rows_of(bl=1, ours=3), rows_of(bl=9))
    assert [(e["commit"], e["trainings"]) for e in third] == [
        ("two", {"ours": BOTH}),
        ("three", {"bl": BOTH}),
    ]


def test_cases_that_are_written_again_unchanged_stay_those_of_the_export_that_brought_them() -> (
    None
):
    first = add_entry([], entry("one", "BL"), Rows({}), rows_of(bl=1))
    both = add_entry(first, entry("two"), rows_of(bl=1), rows_of(bl=1, ours=2))
    assert [(e["commit"], e["trainings"]) for e in both] == [
        ("one", {"bl": BOTH}),
        ("two", {"ours": BOTH}),
    ]
    again = add_entry(both, entry("two"), rows_of(bl=1, ours=2), rows_of(bl=1, ours=2))
    assert again == both  # the same command and commit: one entry


def test_of_older_entries_the_last_that_asked_for_a_training_has_brought_it() -> None:
    exports = [
        entry("unknown") | {"command": "python reproduce/run.py --what benchmark"},
        entry("one", not_run=["Ours"]),
        entry("two"),
        entry("three", "MixStyle"),
    ]
    had = rows_of(bl=1, ours=2, mixstyle=3)
    found = add_entry(exports, entry("four", "Cutout"), had, rows_of(cutout=4))
    assert [(e["commit"], e.get("trainings")) for e in found] == [
        ("unknown", None),
        ("two", {"bl": BOTH, "ours": BOTH}),
        ("three", {"mixstyle": BOTH}),
        ("four", {"cutout": BOTH}),
    ]
