"""The log of a run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from engine.run_log import RunLog, keep_rows, log_columns

TERMS = ("seg", "dis", "tran", "con", "cos")
VALUES = {"seg": 1.25, "dis": 0.5, "total": 1.75, "grad_norm": 3.0}


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def write_steps(folder: Path, first: int, last: int, mark: str) -> None:
    log = RunLog(folder, TERMS, first - 1)
    for step in range(first, last + 1):
        log.write(step, 0, 1e-4, VALUES, [mark])
    log.close()


def test_a_row_holds_the_step_and_each_term_by_name(tmp_path: Path) -> None:
    log = RunLog(tmp_path, TERMS, 0)
    log.write(1, 0, 1e-4 / 3, VALUES, ["A/a0", "B/b1"])
    log.close()
    (row,) = read(tmp_path)
    assert tuple(row) == log_columns(TERMS)
    assert (row["step"], row["epoch"], row["cases"]) == ("1", "0", "A/a0 B/b1")
    assert float(row["lr"]) == pytest.approx(1e-4 / 3, rel=1e-5)
    assert [row[name] for name in ("total", "seg", "dis", "grad_norm")] == [
        "1.75", "1.25", "0.5", "3",
    ]  # fmt: skip
    assert [row[name] for name in ("tran", "con", "cos")] == ["", "", ""]


def test_rows_behind_the_resumed_step_are_forgotten(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5, "before the kill")
    write_steps(tmp_path, 4, 6, "after it")
    rows = read(tmp_path)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["cases"] for row in rows] == ["before the kill"] * 3 + ["after it"] * 3


def test_a_row_cut_short_by_a_kill_is_forgotten(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2, "whole")
    with (tmp_path / "log.csv").open("a", encoding="utf-8") as handle:
        handle.write("3,0,0.00")
    keep_rows(tmp_path / "log.csv", 9, log_columns(TERMS))
    assert [row["step"] for row in read(tmp_path)] == ["1", "2"]


def test_a_case_with_a_comma_or_a_quote_survives_a_resume(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 1, 'A/Doe, "Jane"')
    write_steps(tmp_path, 2, 2, "B/b")
    write_steps(tmp_path, 3, 3, "C/c")
    assert [row["cases"] for row in read(tmp_path)] == ['A/Doe, "Jane"', "B/b", "C/c"]


def test_lines_end_alike_whether_resumed_or_not(tmp_path: Path) -> None:
    for folder, cuts in (("whole", [(1, 4)]), ("resumed", [(1, 2), (3, 4)])):
        (tmp_path / folder).mkdir()
        for first, last in cuts:
            write_steps(tmp_path / folder, first, last, "x")
    whole = (tmp_path / "whole" / "log.csv").read_bytes()
    assert whole == (tmp_path / "resumed" / "log.csv").read_bytes()
    assert b"\r" not in whole


def test_only_the_first_process_writes_a_log(tmp_path: Path) -> None:
    log = RunLog(tmp_path, TERMS, 0, tensorboard=True, active=False)
    log.write(1, 0, 1e-4, VALUES, ["x"])
    log.flush()
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_each_term_once_per_step_also_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    for first, last, value in ((1, 3, 1.0), (3, 4, 2.0)):
        log = RunLog(tmp_path, TERMS, first - 1, tensorboard=True)
        for step in range(first, last + 1):
            log.write(step, 0, 1e-4, {"seg": value}, ["x"])
        log.close()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert events.Tags()["scalars"] == ["lr", "loss/seg"]
    shown = [(event.step, event.value) for event in events.Scalars("loss/seg")]
    assert shown == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
