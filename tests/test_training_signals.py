"""Trainings with workers that get signals: in a group, under torchrun, while they measure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.checkpointing import load_checkpoint
from engine.early_stopping import EarlyStopping
from engine.run_folders import Run, find_runs, locked
from engine.training import fit
from tests.conftest import ROOT, Tiny, read_log, same, train, weights, write_tiny_centers
from utils.config import Config
from utils.locks import lock_file, try_lock

SCRIPT = str(ROOT / "train_tumor/train_sh_tumor_coarse.py")
PATIENCE_S = 300.0
EPOCHS, STEPS = 30, 90


class Training:
    """A training with two workers, the leader of a process group of its own."""

    def __init__(self, tiny: Tiny, checkpoints: Path, launcher: tuple[str, ...] = ()) -> None:
        self.checkpoints, self.launcher = checkpoints, launcher
        self.args = tiny.args(checkpoints, "--epochs", str(EPOCHS), "--checkpoint-seconds", "0")
        self.args[self.args.index("--workers") + 1] = "2"

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *self.launcher, SCRIPT, *self.args],
            cwd=ROOT.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def run(self) -> Run | None:
        return next(iter(find_runs(self.checkpoints, "tumor_coarse")), None)

    def wait_for_state(self, process: subprocess.Popen[str]) -> Run:
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None:
            run = self.run
            if run is not None and run.checkpoint.is_file():
                return run
            assert time.monotonic() < end
            time.sleep(0.02)
        raise AssertionError(process.communicate()[0])

    def saved_step(self) -> int:
        assert self.run is not None
        return int(load_checkpoint(self.run.checkpoint)["step"])


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(own) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_to_the_whole_group_saves_and_one_line_says_so(
    number: signal.Signals, status: int, tiny: Tiny, tmp_path: Path
) -> None:
    training = Training(tiny, tmp_path)
    process = training.start()
    run = training.wait_for_state(process)
    os.killpg(process.pid, number)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status, text
    step = training.saved_step()
    assert 0 < step < STEPS
    assert len(read_log(run)) == step
    assert text.splitlines()[-1] == (
        f"{number.name}: saved at step {step} of {STEPS}; the same command resumes"
    )
    assert "Traceback" not in text
    assert members(process.pid) == []


@pytest.mark.slow
def test_after_sigkill_the_folder_is_free_at_once_and_no_worker_is_left(
    tiny: Tiny, tmp_path: Path
) -> None:
    training = Training(tiny, tmp_path)
    process = training.start()
    run = training.wait_for_state(process)
    workers = [pid for pid in members(process.pid) if pid != process.pid]
    assert len(workers) >= 2
    with lock_file(run.folder / "lock") as handle:
        assert not try_lock(handle)
        process.kill()
        process.wait()
        assert try_lock(handle)
    end = time.monotonic() + 2.0
    while members(process.pid):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.communicate()


@pytest.mark.slow
def test_under_torchrun_a_signal_to_the_group_saves(tiny: Tiny, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    training = Training(tiny, tmp_path, launcher)
    process = training.start()
    run = training.wait_for_state(process)
    os.killpg(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0, text
    step = training.saved_step()
    assert 0 < step < STEPS // 2
    assert len(read_log(run)) == step, text
    assert text.count(f"SIGTERM: saved at step {step} of ") == 1, text
    assert not run.done
    with locked(run.folder):
        pass


def test_a_signal_while_held_out_cases_are_measured_saves_at_once(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        epochs=4,
        holdout=0.5,
        validate_epochs=2,
        time="t",
        checkpoint_seconds=3600.0,
        centers=write_tiny_centers(tmp_path, {"A": 2, "B": 2, "C": 1}),
    )
    unbroken = train(replace(config, checkpoints=tmp_path / "unbroken"))
    real = EarlyStopping.measure
    measures: list[Any] = []

    def interrupted(self: EarlyStopping, method: Any) -> float:
        measures.append(method.training)
        method.eval()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return real(self, method)

    monkeypatch.setattr(EarlyStopping, "measure", interrupted)
    started = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        fit(config)
    assert ended.value.code == 143
    assert time.monotonic() - started < 50
    assert len(measures) == 1
    (run,) = find_runs(config.checkpoints, "tumor_coarse")
    content = load_checkpoint(run.checkpoint)
    assert content["heldout_dsc"] == []
    assert content["step"] == 4  # the end of the second epoch of two cases
    monkeypatch.setattr(EarlyStopping, "measure", real)
    resumed = train(config)
    assert same(weights(resumed), weights(unbroken))
    for name in ("heldout.csv", "log.csv"):
        assert (resumed.folder / name).read_text() == (unbroken.folder / name).read_text()
