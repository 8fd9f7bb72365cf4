"""What the shift costs a row, from cases whose numbers the tests chose."""

from __future__ import annotations

import numpy as np
import pytest

from engine.case_metrics import Row
from reproduce.analysis.rows import ResultKey, Rows
from reproduce.analysis.shift import Shift, measure_shift, shift_markdown, shift_table
from tests._rows_fixtures import SEED, key, make_cases, make_rows
from tests._table_fixtures import markdown_cells

CENTERS = ("A", "B", "C")


def shift_cases(
    seed: int = SEED, unseen: float = 40.0, seen: float = 70.0
) -> dict[ResultKey, list[Row]]:
    """Center C's case a: `seen` by the model of A, 10 more by that of B, `unseen` by its own."""
    return {
        key("tumor_fine", "C", "bl", seed): make_cases([unseen, 0.0, 0.0]),
        key("tumor_fine", "A", "bl", seed): make_cases([1.0]),
        key("tumor_fine", "B", "bl", seed): make_cases([1.0]),
        key("tumor_fine", "A", "bl", seed, heldout="C"): make_cases([seen]),
        key("tumor_fine", "B", "bl", seed, heldout="C"): make_cases([seen + 10]),
        key("tumor_fine", "A", "bl", seed, heldout="B"): make_cases([2.0]),
        key("tumor_fine", "B", "bl", seed, heldout="A"): make_cases([2.0]),
    }


def rows_of(*parts: dict[ResultKey, list[Row]]) -> Rows:
    return make_rows({of: cases for part in parts for of, cases in part.items()}, CENTERS)


def test_the_shift_compares_a_center_with_itself_on_the_same_cases() -> None:
    shift = measure_shift(rows_of(shift_cases()), "C", [SEED], "BL")
    assert shift is not None
    assert shift.seen.tolist() == [[75.0]]  # of the two models that were trained on C
    assert shift.unseen.tolist() == [[40.0]]  # the two cases that nobody held out do not count
    assert shift.losses.tolist() == [[35.0]]
    assert shift.thresholds == (0.5,)


def test_every_seed_has_a_line_of_its_own() -> None:
    rows = rows_of(shift_cases(), shift_cases(7, unseen=60.0, seen=80.0))
    shift = measure_shift(rows, "C", [SEED, 7], "BL")
    assert shift is not None
    assert shift.seen.tolist() == [[75.0], [85.0]]
    assert shift.unseen.tolist() == [[40.0], [60.0]]


def test_without_a_seed_a_model_or_the_heldout_cases_there_is_no_shift() -> None:
    assert measure_shift(rows_of(), "C", [SEED], "BL") is None
    found = shift_cases()
    assert measure_shift(rows_of(found), "C", [SEED, 7], "BL") is None
    assert measure_shift(rows_of(found), "C", [SEED], "Ours") is None
    del found[key("tumor_fine", "B", "bl", heldout="C")]
    assert measure_shift(rows_of(found), "C", [SEED], "BL") is None


@pytest.mark.parametrize(
    "other",
    [
        key("tumor_fine", "A", "bl", heldout="C"),  # one model held out another case
        key("tumor_fine", "C", "bl"),  # its own model was not evaluated on the held-out case
    ],
)
def test_models_of_different_cases_are_refused(other: ResultKey) -> None:
    found = shift_cases() | {other: [row | {"case_id": "z"} for row in make_cases([70.0])]}
    with pytest.raises(ValueError, match="C: its models held out or were evaluated on different"):
        measure_shift(rows_of(found), "C", [SEED], "BL")


def test_seeds_that_held_out_different_cases_are_refused() -> None:
    later = shift_cases(7)
    later[key("tumor_fine", "A", "bl", 7, heldout="C")] = make_cases([70.0, 70.0])
    with pytest.raises(ValueError, match=r"C: cases differ: .*one --holdout"):
        measure_shift(rows_of(shift_cases(), later), "C", [SEED, 7], "BL")


def test_the_shift_of_each_center_and_their_mean_are_in_the_report() -> None:
    shifts: dict[str, Shift | None] = {
        "A": Shift("A", np.array([[70.0, 80.0]]), np.array([[60.0, 70.0]]), (0.5,)),
        "B": Shift("B", np.array([[50.0, 40.0]]), np.array([[20.0, 10.0]]), (0.7,)),
    }
    text = shift_markdown("BL", shifts)
    one, two = "| BL | A | 75.00 | 65.00 | +10.00 [10.00, 10.00]", "| one training | - | 2 | 0.5 |"
    assert f"{one} {two}" in text
    assert "| BL | mean | 60.00 | 40.00 | +20.00 [20.00, 20.00] | one training | - | 4 |" in text
    assert "BL loses by the shift: 60.00 where the center was seen, 40.00 where it was" in text
    assert "not; not tested." in text  # four cases cannot
    reverse = {"A": Shift("A", np.array([[50.0]]), np.array([[60.0]]))}
    assert "BL does not lose by the shift" in shift_markdown("BL", reverse)
    missing = shift_markdown("BL", {**shifts, "C": None})
    assert "What the shift costs BL: not every result is there yet." in missing
    assert "| BL | C | - |" in missing
    assert "| mean |" not in missing


def test_several_seeds_have_an_interval_over_trainings_and_p_is_of_the_cases_means() -> None:
    losses = np.arange(1.0, 8.0)  # of seven cases, all above zero: p is 2 / 2**7
    seen = 50 + np.stack([losses, losses + 6, losses - 3])
    lines = shift_table({"Ours": {"A": Shift("A", seen, np.full((3, 7), 50.0))}})
    (table,) = markdown_cells("\n".join(lines))
    assert len(lines) == 4
    mean = table["Ours"]  # the last line: that of the mean
    assert mean["center"] == "mean"
    assert mean["p, Wilcoxon"] == "0.016"
    low, high = (float(v) for v in mean["[95 %, trainings and cases]"].strip("[]").split(","))
    assert low < 1.5
    assert high > 9
