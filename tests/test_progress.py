"""Progress: lines with the remaining time where there is no terminal."""

from __future__ import annotations

import pytest

from utils import progress as module
from utils.progress import Progress


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_the_remaining_time_is_that_of_the_steps_of_this_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    progress = Progress("tumor_fine", total=10, done=4, seconds=0.0)
    clock.now += 30
    progress.advance({"seg": 1.23456789})
    assert capsys.readouterr().out == "tumor_fine: 5/10, 0:02:30 left  seg 1.235\n"


def test_a_line_appears_only_after_its_seconds_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    progress = Progress("x", total=6, seconds=20.0)
    for _ in range(6):
        clock.now += 9
        progress.advance()
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["x: 3/6", "x: 6/6"]


def test_in_a_terminal_there_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("x", total=2, done=1)
    progress.advance({"seg": 0.5})
    progress.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
    assert "seg 0.5" in captured.err
