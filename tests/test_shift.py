"""What the shift costs a row, from result folders whose numbers the tests chose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.centers import load_centers
from reproduce.analysis.shift import Shift, measure_shift, shift_markdown
from reproduce.experiments.cells import Plan
from tests._table_fixtures import fill_model, make_plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, ("A", "B", "C"))


def fill_shift(plan: Plan, seed: int = 2022, unseen: float = 40.0, seen: float = 70.0) -> None:
    """Center C's case c0: `seen` by the model of A, 10 more by that of B, `unseen` by its own."""
    fill_model(plan, "C", "BL", [unseen, 0.0, 0.0], seed=seed)
    fill_model(plan, "A", "BL", [1.0], {"B": [2.0], "C": [seen]}, seed=seed)
    fill_model(plan, "B", "BL", [1.0], {"A": [2.0], "C": [seen + 10]}, seed=seed)


def test_the_shift_compares_a_center_with_itself_on_the_same_cases(plan: Plan) -> None:
    fill_shift(plan)
    shift = measure_shift(plan, load_centers(plan.centers), "C", [2022], "BL")
    assert shift is not None
    assert shift.seen.tolist() == [75.0]  # of the two models that were trained on C
    assert shift.unseen.tolist() == [40.0]  # the two cases that nobody held out do not count
    assert shift.losses.tolist() == [35.0]
    assert shift.thresholds == (0.5,)


def test_a_case_counts_as_its_mean_over_the_seeds(plan: Plan) -> None:
    fill_shift(plan)
    fill_shift(plan, seed=7, unseen=60.0, seen=80.0)
    shift = measure_shift(plan, load_centers(plan.centers), "C", [2022, 7], "BL")
    assert shift is not None
    assert shift.seen.tolist() == [80.0]
    assert shift.unseen.tolist() == [50.0]


def test_without_a_seed_a_model_or_the_heldout_cases_there_is_no_shift(plan: Plan) -> None:
    centers = load_centers(plan.centers)
    assert measure_shift(plan, centers, "C", [2022], "BL") is None
    fill_shift(plan)
    assert measure_shift(plan, centers, "C", [2022], "BL") is not None
    assert measure_shift(plan, centers, "C", [2022, 7], "BL") is None
    assert measure_shift(plan, centers, "C", [2022], "Ours") is None
    (done,) = plan.checkpoints.glob("*/evaluation_A_seg_heldout/done")
    done.unlink()
    assert measure_shift(plan, centers, "A", [2022], "BL") is None


def test_models_that_held_out_other_cases_are_refused(plan: Plan) -> None:
    fill_shift(plan)
    fill_model(plan, "A", "BL", [1.0], {"B": [2.0], "C": [70.0, 70.0]}, seed=7)
    fill_model(plan, "B", "BL", [1.0], {"A": [2.0], "C": [70.0]}, seed=7)
    fill_model(plan, "C", "BL", [40.0, 0.0, 0.0], seed=7)
    with pytest.raises(ValueError, match="C: its models held out or were evaluated on different"):
        measure_shift(plan, load_centers(plan.centers), "C", [2022, 7], "BL")


def test_the_shift_of_each_center_and_their_mean_stand_in_the_report() -> None:
    shifts: dict[str, Shift | None] = {
        "A": Shift("A", np.array([70.0, 80.0]), np.array([60.0, 70.0]), (0.5,)),
        "B": Shift("B", np.array([50.0, 40.0]), np.array([20.0, 10.0]), (0.5,)),
    }
    text = shift_markdown("BL", shifts)
    assert "| A | 75.00 | 65.00 | +10.00 [10.00, 10.00] | 2 | 0.5 |" in text
    assert "| mean | 60.00 | 40.00 | +20.00 [20.00, 20.00] | 4 | |" in text
    assert "BL loses by the shift: 60.00 where the center was seen, 40.00 where it was" in text
    assert "not; not tested." in text  # four cases cannot
    reverse = {"A": Shift("A", np.array([50.0]), np.array([60.0]))}
    assert "BL does not lose by the shift" in shift_markdown("BL", reverse)
    assert "Not every cell is there yet." in shift_markdown("BL", {**shifts, "C": None})
