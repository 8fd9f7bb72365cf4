"""`Case` and `DataError`."""

from __future__ import annotations

import pickle

from data.case import DataError


def test_a_data_error_says_every_problem_and_survives_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(DataError(["A/1: no label", "B/2: cut short"])))
    assert error.problems == ("A/1: no label", "B/2: cut short")
    assert str(error) == "A/1: no label\nB/2: cut short"


def test_a_data_error_is_a_value_error_of_one_problem() -> None:
    error = DataError("A/1: no label")
    assert isinstance(error, ValueError)
    assert error.problems == ("A/1: no label",)
