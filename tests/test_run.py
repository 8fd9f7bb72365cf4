"""`reproduce/run.py`: what it shares, what it says, and real runs with what befalls them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.centers import load_centers
from engine.checkpointing import load_checkpoint
from engine.run_folders import find_runs
from reproduce.experiments.estimate import Speed
from reproduce.experiments.finished import Splits, missing_steps
from reproduce.experiments.request import Request, collect_cells, parse_request
from reproduce.experiments.workload import loads_of
from reproduce.workflow.actions import entries_of
from reproduce.workflow.launch import Outcome
from reproduce.workflow.processes import no_step_runs
from reproduce.workflow.run_request import (
    EXIT,
    estimate,
    main,
    run,
    share_processors,
    show_outcome,
    step_device,
)
from tests._step_actions import Clock
from tests.conftest import write_tiny_centers
from utils.config import StoppedError
from utils.scripts import run_script

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300.0


def request(*words: str) -> Request:
    return parse_request("text", words)


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="--device cuda:77"):
        run(request("--what", "table2", "--devices", "cuda:77", "--out", str(out)))
    assert not out.exists()


def test_processes_on_the_cpu_share_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    with share_processors(["cpu", "cpu", "cpu"]):
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert step_device("cpu").endswith(", 2 threads")  # of a step, not of this process
    with share_processors(["cpu"]):
        assert "OMP_NUM_THREADS" not in os.environ
        assert step_device("cpu").endswith(", 8 threads")
    assert "OMP_NUM_THREADS" not in os.environ


# The end


def test_the_end_names_what_failed_what_it_took_along_and_what_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = Outcome(["t"], {"a": "case C/c1: no label"}, {"b": "a"}, ["x", "y"], "time")
    show_outcome(request("--what", "table2", "--out", "o", "--minutes", "5"), outcome)
    text = capsys.readouterr().out
    assert "FAILED a: case C/c1: no label\n  log: o/logs/a.log" in text
    assert "skipped b: it needs a" in text
    assert "the time is over: 1 steps done, 2 left." in text
    assert text.endswith("python reproduce/run.py --what table2 --out o --minutes 5\n")
    assert EXIT == {"": 0, "time": 0, "SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


# The clock


@pytest.mark.slow
def test_drawing_the_synthetic_centers_ends_with_the_minutes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--what", "demo", "--preset", "quick", "--out", str(tmp_path), "--devices", "cpu"]
    outcome = run(request(*words, "--minutes", "0.02"))
    assert outcome == Outcome(left=["draw_centers"], stopped="time")
    text = capsys.readouterr().out
    assert "the time is over: 0 steps done, 1 left. The same command resumes:\n  python " in text
    assert "trainings" not in text


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ((), None),
        (("--minutes", "10"), 60.0),  # a tenth
        (("--minutes", "10", "--dry-run"), 600.0),  # it has nothing else to do
    ],
)
def test_measuring_takes_a_part_of_the_minutes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    seconds: float | None,
) -> None:
    place = Place(tmp_path)
    given: list[float | None] = []

    def know(
        configs: object, device: str, label: str, out: Path, limit: float | None
    ) -> dict[str, Speed]:
        given.append(limit)
        return {}

    monkeypatch.setattr("reproduce.workflow.run_request.known_speeds", know)
    asked = request(*place.words, *words)
    splits = Splits(asked.plan.centers)
    loads = loads_of(missing_steps(asked.plan, collect_cells(asked), splits), splits)
    estimate(asked, loads, entries_of(loads, "cpu 1"), "cpu 1")
    assert given == [seconds if seconds is None else pytest.approx(seconds, abs=30.0)]


def test_what_a_cluster_runs_is_not_measured_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = request(*Place(tmp_path).words, "--executor", "slurm", "--jobs", "3")
    splits = Splits(asked.plan.centers)
    loads = loads_of(missing_steps(asked.plan, collect_cells(asked), splits), splits)
    estimate(asked, loads, entries_of(loads, "slurm"), "slurm")
    text = capsys.readouterr().out
    assert "0 hours on 3 jobs of slurm" in text
    assert "not in it, not measured: train pancreas_coarse ours" in text


# Real runs


class Place:
    """Centers A, B, C with two cases each, and N; Table II on C in a folder of its own."""

    def __init__(self, folder: Path, speeds: Path | None = None) -> None:
        """`speeds`: of an earlier call, so that none is measured again."""
        self.folder, self.out = folder, folder / "out"
        if speeds is not None:
            self.out.mkdir()
            shutil.copy(speeds, self.out)
        self.toml = write_tiny_centers(folder / "centers", {"A": 2, "B": 2, "C": 2, "N": 1})

        self.words = (
            *("--what", "table2", "--preset", "quick", "--targets", "C", "--devices", "cpu"),
            *("--centers", str(self.toml), "--out", str(self.out)),
            *("--checkpoints", str(self.out / "checkpoints"), "--cache", str(self.out / "cache")),
            *("--options", "--spacing 3 1.5 1.5 --window-voxels 32 32 --checkpoint-seconds 0"),
        )

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "reproduce" / "run.py"), *self.words, *more],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )

    def saved_step(self, stage: str) -> int:
        """The step of the one run of a stage; 0 before its first save."""
        for found in find_runs(self.out / "checkpoints", stage):
            if found.checkpoint.is_file():
                return int(load_checkpoint(found.checkpoint)["step"])
        return 0

    def wait_for_step(self, process: subprocess.Popen[str], stage: str, step: int) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.saved_step(stage) < step:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.05)


# A and B keep one case of two for the threshold, N has one: three cases train in an epoch.
STEPS = 20 * 3
LONG = ("--stage-options", "pancreas_coarse=--epochs 20")
COARSE = "pancreas_coarse"
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The script's work at a place, in this process: its status, and what it showed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def of(place: Place, *more: str) -> tuple[int, str]:
        monkeypatch.chdir(place.folder)
        capfd.readouterr()
        status: Any = 0
        try:
            run_script(main, request(*place.words, *more))
        except SystemExit as exit_:
            status = exit_.code
        return int(status), "".join(capfd.readouterr())

    return of


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, int, str]:
    """The script's dry run: where, its status, and what it showed."""
    place = Place(tmp_path_factory.mktemp("dry"))
    process = place.start("--dry-run", *LONG)
    text, _ = process.communicate(timeout=PATIENCE_S)
    return place, process.returncode, text


@pytest.fixture
def speeds(dry_run: tuple[Place, int, str]) -> Path:
    """What the dry run has measured."""
    return dry_run[0].out / "speeds.json"


@pytest.mark.slow
def test_a_dry_run_says_what_it_costs_and_does_nothing(
    dry_run: tuple[Place, int, str], call: Call
) -> None:
    place, status, text = dry_run
    assert status == 0, text
    assert "measuring a few steps of 2 models" in text
    assert ": 2 trainings, 2 evaluations to do" in text
    assert re.search(r"train_sh_pancreas_coarse\.py .*--sources A B N --target C ", text)
    assert re.search(rf"train pancreas_coarse ours +1 +{STEPS} steps", text), text
    assert re.search(r"expected: [\d.e-]+ device hours, [\d.e-]+ hours on cpu", text)
    assert not (place.out / "checkpoints").exists()
    assert not (place.out / "experiment.json").exists()
    status, text = call(place, "--dry-run", *LONG)
    assert status == 0, text
    assert re.search(rf"train pancreas_coarse ours +1 +{STEPS} steps +\d", text), text
    assert "measuring" not in text


@pytest.mark.slow
def test_a_table_resumes_after_sigterm_and_is_filled_once(
    tmp_path: Path, speeds: Path, call: Call
) -> None:
    place = Place(tmp_path, speeds)
    process = place.start(*LONG)
    place.wait_for_step(process, COARSE, 6)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143, text
    saved = place.saved_step(COARSE)
    assert 6 <= saved < STEPS
    assert "SIGTERM: 1 steps done, 4 left. The same command resumes:" in text  # 1: preparing

    status, text = call(place, *LONG)
    assert status == 0, text
    left = re.search(r"train pancreas_coarse ours +1 +(\d+) steps", text)
    assert left is not None
    assert int(left[1]) == STEPS - saved  # the estimate counts what is left
    assert "## Table II" in text
    assert "Missing results" not in (place.out / "table2.md").read_text()
    (coarse,) = find_runs(place.out / "checkpoints", COARSE)
    (fine,) = find_runs(place.out / "checkpoints", "pancreas_fine")
    assert coarse.done
    (log,) = (place.out / "logs").glob("train_*coarse*.log")
    assert f"resumes from step {saved}\n" in log.read_text()
    command = json.loads((fine.folder / "environment.json").read_text())["command"]
    assert command[0] == "train_pancreas/train_sh_pancreas_fine.py"
    assert command[command.index("--device") + 1] == "cpu"

    done = {path: path.stat().st_mtime_ns for path in (place.out / "checkpoints").rglob("done")}
    status, text = call(place, *LONG)
    assert status == 0, text
    assert ": 0 trainings, 0 evaluations to do" in text
    after = {path: path.stat().st_mtime_ns for path in (place.out / "checkpoints").rglob("done")}
    assert after == done
    status, text = call(place, "--dry-run", *LONG, "--stage-options", "pancreas_fine=--epochs 2")
    assert status == 0, text
    assert ": 1 trainings, 1 evaluations to do" in text
    assert f"{fine.folder}: made with other settings or from other cases" in text


@pytest.mark.slow
def test_a_second_call_is_refused_and_a_killed_one_resumes_until_its_minutes_are_over(
    tmp_path: Path, speeds: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, speeds)
    endless = ("--stage-options", "pancreas_coarse=--epochs 100000")
    process = place.start(*endless)
    place.wait_for_step(process, COARSE, 3)
    status, text = call(place, *endless)
    assert status == 2
    assert "another reproduce/run.py is at work here" in text
    process.kill()
    process.communicate()
    assert no_step_runs(place.out, PATIENCE_S)  # it saves, and may have taken a step more
    killed_at = place.saved_step(COARSE)
    clock = Clock(lambda: place.saved_step(COARSE) > killed_at)
    monkeypatch.setattr("reproduce.workflow.launch.time", clock)
    status, text = call(place, *endless, "--minutes", "60")
    assert status == 0, text
    assert "the time is over" in text
    assert "4 left. The same command resumes:\n  python reproduce/run.py --what table2" in text
    assert "### Missing results" in text  # the table of what is there
    assert place.saved_step(COARSE) > killed_at
    (one,) = find_runs(place.out / "checkpoints", COARSE)
    assert not one.done


@pytest.mark.slow
def test_a_case_that_cannot_be_read_fails_the_run_and_is_named(
    tmp_path: Path, speeds: Path, call: Call
) -> None:
    place = Place(tmp_path, speeds)
    centers = load_centers(place.toml)
    (centers["C"].path / "images" / "c0.nii.gz").write_bytes(b"no image")
    status, text = call(place)
    assert status == 1, text
    assert "FAILED prepare_3x1.5x1.5: C/c0" in text
    assert text.count("skipped ") == 4
    assert "Traceback" not in text


def test_the_lock_is_let_go_after_a_failure(tmp_path: Path) -> None:
    words = ["--what", "table2", "--out", str(tmp_path), "--centers", str(tmp_path / "no.toml")]
    words += ["--checkpoints", str(tmp_path / "c"), "--devices", "cpu"]
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be read") as caught:
            run(request(*words))
        assert not isinstance(caught.value, StoppedError)
