"""Signals are noted or end a script in one line; workers obey their parent; locks die with it."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests._sources import is_script, our_imports, source_files, tree_of
from tests.conftest import ROOT
from utils import signals
from utils.locks import lock_file, try_lock
from utils.signals import Noted, SignalReceived, noted_signals

SOON_S = 10.0  # on a busy machine
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", STATUS)
def test_a_noted_signal_waits_and_its_status_is_a_shells(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with noted_signals() as received:
        os.kill(os.getpid(), number)
        assert received == [number]
        assert received.status == STATUS[number]
    assert signal.getsignal(number) is before


def test_a_signal_sent_twice_by_two_senders_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with noted_signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        monkeypatch.setattr(signals, "AGAIN_S", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM, signal.SIGTERM]


def test_what_is_ignored_from_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with noted_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_work_that_can_be_given_up_ends_at_once() -> None:
    with noted_signals() as received:
        for _ in range(2):  # the second time the signal has come before
            with pytest.raises(SignalReceived):
                work_for_long(received)
        assert received == [signal.SIGTERM]


def work_for_long(received: Noted) -> None:
    with received.ending_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SOON_S)


def start(code: str, *args: str) -> subprocess.Popen[str]:
    """Python code as the leader of a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", STATUS)
def test_a_script_ends_in_one_line_and_cleans_up(number: signal.Signals) -> None:
    process = start(
        "import time; from utils.signals import exit_on_signals; exit_on_signals()\n"
        "try:\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "finally:\n"
        "    time.sleep(0.2); print('clean', flush=True)\n"
    )
    assert line_of(process) == "ready"
    os.killpg(process.pid, number)
    os.killpg(process.pid, number)  # as `timeout` does
    out, err = process.communicate(timeout=SOON_S)
    assert process.returncode == STATUS[number]
    assert out == "clean\n"
    assert err == f"{number.name}: ended early; the same command resumes\n"


WORKER = """
import multiprocessing, os, signal, sys, time
from utils.signals import held_signals, noted_signals, obey_parent

def work():
    obey_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with noted_signals():
        process = multiprocessing.get_context("fork").Process(target=work)
        with held_signals():
            process.start()
        while sys.argv[1] == "wait":
            time.sleep(0.1)
        time.sleep(float(sys.argv[1]))
        alive = process.is_alive()
        process.terminate()
        process.join()
        print(alive, process.exitcode, flush=True)
"""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_signal_to_the_group_leaves_the_worker_and_its_parent_can_end_it() -> None:
    process = start(WORKER, "1")
    int(line_of(process))
    for number in STATUS:
        os.killpg(process.pid, number)
    out, err = process.communicate(timeout=SOON_S)
    assert (out, err) == ("True 1\n", "")


def test_a_worker_ends_at_once_with_a_killed_parent() -> None:
    process = start(WORKER, "wait")
    worker = int(line_of(process))
    process.kill()
    process.wait()
    end = time.monotonic() + SOON_S
    while not is_gone(worker):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.communicate()


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path: Path) -> None:
    process = start(
        "import os, sys, time; from pathlib import Path\n"
        "from utils.locks import lock_file, try_lock\n"
        "with lock_file(Path(sys.argv[1])) as handle:\n"
        "    assert try_lock(handle)\n"
        "    child = os.fork()\n"
        "    if not child: print(os.getpid(), flush=True)\n"  # now it runs: it has closed it
        "    time.sleep(600)\n",
        str(tmp_path / "lock"),
    )
    child = int(line_of(process))
    with lock_file(tmp_path / "lock") as handle:
        assert not try_lock(handle)
        process.kill()
        process.wait()
        assert try_lock(handle)
    assert not is_gone(child)
    os.kill(child, signal.SIGKILL)
    process.communicate()


def test_every_script_sets_its_handlers_before_its_long_imports() -> None:
    for path in source_files():
        # The latter is a child of ours, whose own workers read its top again.
        own = ("run_step.py", "launcher.py")
        if not is_script(path) or path.name in own or not list(our_imports(path)):
            continue
        ours = [
            node.names[0].name if isinstance(node, ast.Import) else str(node.module)
            for node in tree_of(path).body
            if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        packages = {p.name for p in ROOT.iterdir() if p.is_dir()}
        first = next(name for name in ours if name.partition(".")[0] in packages)
        assert first == "utils.script_start", path
