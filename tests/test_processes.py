"""Locks, devices and the parent's end, without Snakemake."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reproduce.workflow.plan_file import Entry, PlanFile, read_plan
from reproduce.workflow.processes import claim_device, hold_step, no_step_runs, only_one
from tests.conftest import ROOT
from utils.config import StoppedError

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from reproduce.workflow.processes import claim_device, hold_step\n"
    "with hold_step(Path(sys.argv[1])), claim_device(Path(sys.argv[1]), sys.argv[2:]) as device:\n"
    "    print(device, flush=True)\n"
    "    time.sleep(600)\n"
)


def hold(folder: Path, *devices: str) -> tuple[subprocess.Popen[str], str]:
    """A process that holds a device of `folder`; the device that it has got."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *devices],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_device_has_one_process_and_is_free_again_when_that_is_killed(tmp_path: Path) -> None:
    first, device = hold(tmp_path, "cuda:0", "cuda:1")
    assert device == "cuda:0"
    with claim_device(tmp_path, ["cuda:0", "cuda:1"]) as other:
        assert other == "cuda:1"
        first.kill()
        first.wait()
        with claim_device(tmp_path, ["cuda:0", "cuda:1"]) as again:
            assert again == "cuda:0"


def test_a_name_that_is_given_twice_is_two_places(tmp_path: Path) -> None:
    with (
        claim_device(tmp_path, ["cpu", "cpu"]) as one,
        claim_device(tmp_path, ["cpu", "cpu"]) as two,
    ):
        assert (one, two) == ("cpu", "cpu")


def test_a_folder_has_one_call_and_waits_for_the_steps_of_a_killed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_one(tmp_path):
        with pytest.raises(StoppedError, match="is at work here"), only_one(tmp_path):
            pass
        assert no_step_runs(tmp_path, 0.0)
        with hold_step(tmp_path):
            assert not no_step_runs(tmp_path, 0.0)
    step, _ = hold(tmp_path, "cpu")
    still = pytest.raises(StoppedError, match="steps of an earlier call still run")
    with still, only_one(tmp_path, seconds=0.3):
        pass
    assert "still save; waiting" in capsys.readouterr().out
    step.kill()
    step.wait()
    with only_one(tmp_path):
        pass


def test_the_end_of_the_starter_is_the_end_of_the_process(tmp_path: Path) -> None:
    child = (
        "import os, signal, time\n"
        "from utils.signals import exit_with_parent\n"
        "exit_with_parent(signal.SIGTERM)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_starter_that_has_ended_already_counts() -> None:
    code = (
        "import signal\n"
        "from utils.signals import exit_with_parent\n"
        "exit_with_parent(signal.SIGTERM, 1_000_000_000)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGTERM


def test_a_plan_survives_its_file_and_names_are_unique(tmp_path: Path) -> None:
    entry = Entry("a", "m:f", {"x": [1, None]}, "do a", ("b",), alone=True, facts={"count": 3})
    plan = PlanFile(tmp_path, tmp_path, ("cuda:0", "cuda:1"), True, None, (entry,))
    assert read_plan(plan.write()) == plan
    twice = PlanFile(tmp_path, tmp_path, ("cpu",), True, 1, (entry, entry))
    with pytest.raises(ValueError, match="different steps of one name: a"):
        twice.write()
