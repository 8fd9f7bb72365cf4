"""The scheduler: order, sharing, failure, signals, time, and processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from reproduce.workflow.schedule import last_line, only_one
from reproduce.workflow.tasks import Answer, Queue, Task
from tests._schedule_actions import PATIENCE_S, Place
from utils.config import StoppedError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def names(tasks: Sequence[Task]) -> list[str]:
    return [task.name for task in tasks]


@pytest.fixture
def signal_when(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Send this process a signal when files are there in the test's folder."""
    children: list[subprocess.Popen[bytes]] = []

    def later(number: int, *files: str) -> None:
        code = (
            "import os, sys, time\n"
            "while not all(map(os.path.exists, sys.argv[3:])): time.sleep(0.01)\n"
            "os.kill(int(sys.argv[1]), int(sys.argv[2]))\n"
        )
        words = [str(os.getpid()), str(int(number)), *(str(tmp_path / name) for name in files)]
        children.append(subprocess.Popen([sys.executable, "-c", code, *words]))

    yield later
    for child in children:
        child.kill()
        child.wait()


def take(queue: Queue, name: str) -> Task:
    """Take the next task, which must be the one of that name."""
    task = queue.take()
    assert task is not None
    assert task.name == name
    return task


# The queue alone, without processes


def test_a_task_is_taken_when_all_that_it_needs_is_done(place: Place) -> None:
    queue = Queue(
        [place.task("c", needs=["a", "b"]), place.task("b", needs=["a"]), place.task("a")]
    )
    a = take(queue, "a")
    assert queue.take() is None  # b and c wait for the running a
    queue.finish(a, Answer("done"))
    b = take(queue, "b")
    assert queue.take() is None
    queue.finish(b, Answer("done"))
    c = take(queue, "c")
    queue.finish(c, Answer("done"))
    assert names(queue.close("").done) == ["a", "b", "c"]


def test_what_needs_a_failed_task_is_skipped_at_any_distance_and_nothing_else(place: Place) -> None:
    tasks = [
        place.task("c", needs=["b"]),
        place.task("a"),
        place.task("b", needs=["a"]),
        place.task("x"),
        place.task("d", needs=["x", "c"]),
    ]
    queue = Queue(tasks)
    a = take(queue, "a")
    queue.finish(a, Answer("failed", "no memory"))
    x = take(queue, "x")
    queue.finish(x, Answer("done"))
    report = queue.close("")
    assert report.failed == {"a": "no memory"}
    assert report.skipped == {"b": "a", "c": "b", "d": "c"}
    assert names(report.done) == ["x"]
    assert report.left == []


def test_needs_that_are_not_there_or_run_in_a_circle_are_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="b needs a: not among the tasks, or in a circle"):
        Queue([place.task("b", needs=["a"])])
    with pytest.raises(ValueError, match="in a circle"):
        Queue([place.task("a", needs=["b"]), place.task("b", needs=["a"])])


def test_two_tasks_of_one_name_are_one(place: Place) -> None:
    queue = Queue([place.task("a"), place.task("a"), place.task("b", needs=["a"])])
    assert queue.total == 2


# With processes


def test_one_process_a_device_runs_every_task_once_and_keeps_what_each_prints(place: Place) -> None:
    tasks = [place.task("a"), place.task("b", needs=["a"]), place.task("c", needs=["b"])]
    report = place.run([*tasks, tasks[0]])
    assert names(report.done) == ["a", "b", "c"]
    assert (report.failed, report.skipped, report.left, report.stopped) == ({}, {}, [], "")
    order = place.order()
    assert [line[0] for line in order] == ["a", "b", "c"]
    assert len({line[2] for line in order}) == 1  # one process: imports are paid once
    assert order[0][2] != str(os.getpid())
    log = (place.folder / "logs" / "b.log").read_text()
    assert log.splitlines()[1:] == [f"$ {tasks[1].command}", "b speaks"]
    assert place.said[-1].startswith("[3/3] c: done after ")


def test_a_failure_is_kept_and_the_rest_goes_on(place: Place) -> None:
    tasks = [
        place.task("a", "fail"),
        place.task("b", needs=["a"]),
        place.task("crash", "crash"),
        place.task("exit", "exit"),
        place.task("die", "die"),
        place.task("z"),
    ]
    report = place.run(tasks)
    assert report.failed == {
        "a": "case C/c1: its label is empty",
        "crash": "RuntimeError: not foreseen",
        "exit": "exit status 2",
        "die": "its process ended: killed by signal 9 (memory?)",
    }
    assert report.skipped == {"b": "a"}
    assert names(report.done) == ["z"]  # in a new process, as the one before died
    assert "Traceback" in (place.folder / "logs" / "crash.log").read_text()
    assert "Traceback" not in (place.folder / "logs" / "a.log").read_text()


def test_a_task_that_is_done_by_now_is_passed_over(place: Place) -> None:
    tasks = [place.task("a"), place.task("b", needs=["a"])]
    report = place.run(tasks, is_done=lambda task: task.name == "a")
    assert names(report.done) == ["a", "b"]
    assert [line[0] for line in place.order()] == ["b"]


def test_two_devices_work_at_once_each_in_its_process(
    place: Place, signal_when: Callable[..., None]
) -> None:
    """Both wait for SIGTERM: had one run after the other, the second would never have begun."""
    signal_when(signal.SIGTERM, "a.began", "b.began")
    report = place.run([place.task("a", "save"), place.task("b", "save"), place.task("c")], 2)
    assert report.stopped == "SIGTERM"
    assert sorted(names(report.left)) == ["a", "b", "c"]
    assert {line[1] for line in place.order()} == {"device0", "device1"}
    assert (place.folder / "a.saved").exists()
    assert (place.folder / "b.saved").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_running_task_save_and_starts_no_other(
    place: Place, signal_when: Callable[..., None], number: int
) -> None:
    signal_when(number, "a.began")
    report = place.run([place.task("a", "save"), place.task("b")])
    assert report.stopped == signal.Signals(number).name
    assert names(report.left) == ["a", "b"]
    assert (place.folder / "a.saved").read_text() == "state"
    assert [line[0] for line in place.order()] == ["a"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # as it was


@pytest.mark.slow
def test_the_end_of_the_time_lets_the_running_task_save(place: Place) -> None:
    report = place.run([place.task("a"), place.task("b", "save"), place.task("c")], seconds=5.0)
    assert report.stopped == "time"
    assert names(report.done) == ["a"]
    assert names(report.left) == ["b", "c"]
    assert (place.folder / "b.saved").read_text() == "state"


def test_a_run_that_ends_within_its_time_was_not_stopped(place: Place) -> None:
    report = place.run([place.task("a")], seconds=PATIENCE_S)
    assert (names(report.done), report.stopped) == (["a"], "")


def test_a_task_that_is_deaf_to_sigterm_is_killed(
    place: Place, signal_when: Callable[..., None]
) -> None:
    signal_when(signal.SIGTERM, "a.began")
    began = time.monotonic()
    report = place.run([place.task("a", "deaf")], grace_s=1.0)
    assert names(report.left) == ["a"]
    assert report.failed == {}
    assert time.monotonic() - began < PATIENCE_S / 2


def start_call(place: Place, deed: str) -> subprocess.Popen[str]:
    """A process that holds the folder and runs the task `a`, then `b`."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests._schedule_actions import Place\n"
        "from reproduce.workflow.schedule import only_one\n"
        "if __name__ == '__main__':\n"
        "    place = Place(Path(sys.argv[1]))\n"
        "    with only_one(place.folder):\n"
        "        report = place.run([place.task('a', sys.argv[2]), place.task('b')])\n"
        "    print([task.name for task in report.left])\n"
    )
    script = place.folder / "call.py"
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script), str(place.folder), deed],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def test_workers_of_a_killed_call_save_and_leave_and_the_next_call_waits_for_them(
    place: Place,
) -> None:
    process = start_call(place, "save")
    place.wait_for("a.began")
    with (
        pytest.raises(StoppedError, match=r"another .* is at work here"),
        only_one(place.folder),
    ):
        pass
    process.kill()
    process.wait()
    with only_one(place.folder):  # comes back when the worker, which saves, has left
        assert (place.folder / "a.saved").read_text() == "state"
        worker = int(place.order()[0][2])
        end = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{worker}").exists():  # its lock goes a moment before its process
            assert time.monotonic() < end
            time.sleep(0.01)


def test_ctrl_c_in_a_terminal_reaches_all_and_the_training_still_saves(place: Place) -> None:
    """A terminal sends SIGINT to the whole process group, the worker too."""
    process = start_call(place, "save")
    place.wait_for("a.began")
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert text.endswith("['a', 'b']\n"), text
    assert (place.folder / "a.saved").read_text() == "state"


def test_the_last_line_of_a_log_skips_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_text("first\n" * 1000 + "last one\n\n  \n")
    assert last_line(path) == "last one"
