"""Steps by Snakemake: order, sharing, failure, signals, time, and processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reproduce.workflow.launch import last_line
from tests._step_actions import Clock, Place
from utils.signals import AGAIN_S

DRIVER = Path(__file__).with_name("_step_actions.py")
PATIENCE_S = 120.0
pytestmark = pytest.mark.slow  # each test starts Snakemake: some seconds


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def driver(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A call that runs endless steps a and b, with c to follow, once both have begun."""
    process = start(place, "save_and_exit")
    wait_until_begun(place, process)
    yield process
    process.kill()
    process.wait()


def start(place: Place, action: str, grace_s: float = 30.0) -> subprocess.Popen[str]:
    words = (str(place.folder), action, str(grace_s), "cuda:0", "cuda:1")
    return subprocess.Popen(
        [sys.executable, str(DRIVER), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until_begun(place: Place, process: subprocess.Popen[str], count: int = 2) -> None:
    end = time.monotonic() + PATIENCE_S
    while len(place.noted("begin")) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(*pids: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < end
        time.sleep(0.05)


def step_pids(place: Place) -> list[int]:
    return [int(line[3]) for line in place.order()]


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def test_steps_run_once_behind_what_they_need_and_keep_what_they_print(place: Place) -> None:
    entries = [
        place.entry("c", needs=["b"]),
        place.entry("a+1[x]"),
        place.entry("b", needs=["a+1[x]"]),
    ]
    outcome = place.run(entries)
    assert (outcome.failed, outcome.skipped, outcome.left, outcome.stopped) == ({}, {}, [], "")
    assert place.noted("begin") == place.noted("end") == ["a+1[x]", "b", "c"]
    assert place.log("b").splitlines()[1:] == ["$ do b", "b speaks, 1 threads"]
    # b and c may be seen to have ended at once; they are then named in the order of the plan
    ended = [line for line in place.said if ": done after " in line]
    assert sorted(line.split()[1] for line in ended) == ["a+1[x]:", "b:", "c:"]
    assert ended[-1].startswith("[3/3] ")
    assert (place.folder / ".snakemake").is_dir()
    assert place.run(entries).done == ["c", "a+1[x]", "b"]  # asked again, they run again
    assert len(place.noted("end")) == 6


def test_slurm_is_asked_for_nothing_where_the_steps_run_here(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, tool = place.folder / "asked.txt", place.folder / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$SLURM_CONF" >> {asked}\nexit 1\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", "a cluster's")
    assert place.run([place.entry("a")]).done == ["a"]
    # some versions of Snakemake's plugin ask when they are loaded: then for no cluster's file
    assert not asked.exists() or set(asked.read_text().split()) == {os.devnull}


def test_two_gpus_get_one_step_each_at_a_time(place: Place) -> None:
    entries = [place.entry(name, seconds=0.5) for name in "abcd"]
    assert len(place.run(entries, "cuda:0", "cuda:1").done) == 4
    running: dict[str, str] = {}
    devices = set()
    for name, word, device, *_ in place.order():
        if word == "begin":
            assert device not in running.values()
            running[name] = device
            devices.add(device)
        else:
            del running[name]
    assert devices == {"cuda:0", "cuda:1"}


def test_one_failing_step_does_not_stop_the_others_and_its_log_is_named(place: Place) -> None:
    entries = [
        place.entry("bad", "fail"),
        place.entry("needs_bad", needs=["bad"]),
        place.entry("needs_that", needs=["needs_bad"]),
        place.entry("wrong", "crash"),
        place.entry("killed", "kill_itself"),
        place.entry("good"),
        place.entry("needs_good", needs=["good"]),
    ]
    outcome = place.run(entries)
    assert outcome.done == ["good", "needs_good"]
    assert outcome.failed == {
        "bad": "bad: no such case",
        "wrong": "ZeroDivisionError: a fault of the code",
        "killed": "its process was killed (out of memory?)",
    }
    assert outcome.skipped == {"needs_bad": "bad", "needs_that": "needs_bad"}
    assert outcome.left == []
    said = "\n".join(place.said)
    assert f"bad: no such case\n  log: {place.folder / 'logs' / 'bad.log'}" in said
    assert place.log("bad").endswith("error: bad: no such case\n")
    assert "Traceback" in place.log("wrong")
    assert "Traceback" not in place.log("bad")


def test_a_step_that_needs_all_devices_runs_alone(place: Place) -> None:
    alone = place.entry("alone", seconds=0.3)
    entries = [place.entry("a", seconds=0.3), place.entry("b", seconds=0.3)]
    alone = type(alone)(**{**vars(alone), "alone": True})
    place.run([*entries, alone], "cpu", "cpu")
    words = [(name, word) for name, word, *_ in place.order()]
    begin = words.index(("alone", "begin"))
    assert words[begin + 1] == ("alone", "end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_steps_save(
    number: signal.Signals, driver: subprocess.Popen[str], place: Place
) -> None:
    driver.send_signal(number)
    text, _ = driver.communicate(timeout=PATIENCE_S)
    assert f"stopped={number.name} left=a b c" in text
    assert sorted(place.noted("saved")) == ["a", "b"]
    assert place.noted("begin") == place.noted("saved") or len(place.noted("begin")) == 2
    assert not any(map(is_alive, step_pids(place)))


def test_the_end_of_the_time_lets_the_running_steps_save(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(lambda: len(place.noted("begin")) == 2)
    monkeypatch.setattr("reproduce.workflow.launch.time", clock)
    entries = [place.entry(name, "save_and_exit") for name in "ab"]
    entries.append(place.entry("c", needs=["a"]))
    outcome = place.run(entries, "cuda:0", "cuda:1", seconds=3600.0)
    assert (outcome.stopped, outcome.left) == ("time", ["a", "b", "c"])
    assert sorted(place.noted("saved")) == sorted(place.noted("begin")) == ["a", "b"]


def test_a_killed_call_leaves_no_orphan_and_the_next_waits_until_its_steps_have_saved(
    driver: subprocess.Popen[str], place: Place
) -> None:
    (engine,) = children_of(driver.pid)
    driver.kill()
    driver.communicate()
    process = start(place, "touch")
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert "stopped= left=" in text
    assert sorted(place.noted("saved")) == ["a", "b"]
    words = [line[1] for line in place.order()]
    assert words[:4] == ["begin", "begin", "saved", "saved"]
    wait_for_end(engine, *step_pids(place))


def test_when_snakemake_is_killed_its_steps_save_and_the_call_ends(
    driver: subprocess.Popen[str], place: Place
) -> None:
    (engine,) = children_of(driver.pid)
    os.kill(engine, signal.SIGKILL)
    text, _ = driver.communicate(timeout=PATIENCE_S)
    assert "stopped=Snakemake was killed left=a b c" in text
    assert sorted(place.noted("saved")) == ["a", "b"]


def test_a_killed_step_is_a_failed_one_and_the_other_is_untouched(
    driver: subprocess.Popen[str], place: Place
) -> None:
    killed = next(int(line[3]) for line in place.order() if line[0] == "a")
    os.kill(killed, signal.SIGKILL)
    wait_for_end(killed)
    time.sleep(1.0)
    assert driver.poll() is None
    assert place.noted("saved") == []
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=PATIENCE_S)
    assert place.noted("saved") == ["b"]


def test_a_second_call_is_refused_while_one_is_at_work(
    driver: subprocess.Popen[str], place: Place
) -> None:
    text, _ = start(place, "touch").communicate(timeout=PATIENCE_S)
    assert "StoppedError" in text
    assert "another reproduce/run.py is at work here" in text
    assert driver.poll() is None


def test_steps_that_do_not_end_are_killed_after_the_grace(place: Place) -> None:
    process = start(place, "never_exit", grace_s=1.0)
    wait_until_begun(place, process)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert "stopped=SIGTERM left=a b c" in text
    assert not any(map(is_alive, step_pids(place)))


def test_a_second_signal_kills_steps_that_do_not_end_at_once(place: Place) -> None:
    process = start(place, "never_exit", grace_s=10 * PATIENCE_S)
    wait_until_begun(place, process)
    process.send_signal(signal.SIGTERM)
    time.sleep(AGAIN_S + 0.5)  # one so soon after another is the same one
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert "stopped=SIGTERM left=a b c" in text
    assert not any(map(is_alive, step_pids(place)))


def test_a_second_sigterm_does_not_interrupt_saving(
    driver: subprocess.Popen[str], place: Place
) -> None:
    pids = set(step_pids(place))
    for _ in range(2):
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
    wait_for_end(*pids)
    assert sorted(place.noted("saved")) == ["a", "b"]


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_bytes(b"one\n" + b"x" * 3000 + b"\ntwo \xff\n\n")
    assert last_line(path) == "two \N{REPLACEMENT CHARACTER}"
