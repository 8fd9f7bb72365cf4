"""Jobs in processes: their order, and every way to end before they are done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.case import DataError
from data.prepare.parallel import run_jobs

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0


def square(number: int) -> int:
    return number**2


def note(path: Path) -> None:
    """Takes a moment; the file says that it began, its content that it ended."""
    path.touch()
    time.sleep(0.2)
    path.write_text("done")


def die(number: int) -> int:
    os._exit(number)


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
def test_results_stand_in_the_order_of_the_jobs(workers: int) -> None:
    assert run_jobs(square, [3, 1, 2, 5, 4], workers, "squares") == [9, 1, 4, 25, 16]
    assert run_jobs(square, [7], workers, "squares") == [49]
    assert run_jobs(square, [], workers, "squares") == []


def test_a_killed_worker_is_named() -> None:
    with pytest.raises(DataError, match="deaths: a worker process was killed"):
        run_jobs(die, [1, 2, 3], 2, "deaths")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_it_with_the_jobs_that_have_begun(tmp_path: Path, number: int) -> None:
    """400 jobs of 0.2 s would take two workers 40 s; a worker must not outlive its starter."""
    lines = [
        "import signal, sys",
        "from pathlib import Path",
        "from data.prepare.parallel import run_jobs",
        "from tests.test_parallel import note",
        "if __name__ == '__main__':",
        "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))",
        "    signal.signal(signal.SIGINT, signal.default_int_handler)",
        "    run_jobs(note, [Path(sys.argv[1], str(n)) for n in range(400)], 2, 'notes')",
    ]
    script = tmp_path / "script.py"
    script.write_text("\n".join(lines))
    notes = tmp_path / "notes"
    notes.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(notes)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + PATIENCE_S
    while len(list(notes.iterdir())) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(PATIENCE_S)
    at_end = len(list(notes.iterdir()))
    assert at_end < 100
    while _is_alive_group(process.pid):
        assert time.monotonic() < end, "a worker lives on"
        time.sleep(0.05)
    assert len(list(notes.iterdir())) <= at_end + 2  # killed ones may have begun one each
    if number != signal.SIGKILL:
        assert {path.read_text() for path in notes.iterdir()} == {"done"}


def _is_alive_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
