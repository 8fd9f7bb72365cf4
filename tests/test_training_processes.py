"""Training as a user runs it: killed, terminated, started twice, spread over two processes."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpointing import load_checkpoint
from engine.command_line import parse_config
from engine.run_folders import Run, find_runs
from tests.conftest import (
    ROOT,
    RunScript,
    Tiny,
    read_log,
    same,
    start_script,
    train,
    weights,
)
from utils.stages import TUMOR_COARSE

SCRIPT = "train_tumor/train_sh_tumor_coarse.py"
STEPS = 36  # 12 epochs of three cases
PATIENCE_S = 300.0  # a busy machine is no error
pytestmark = pytest.mark.slow


class Training:
    """One train command, started again and again as a user would."""

    def __init__(self, tiny: Tiny, checkpoints: Path, *more: str) -> None:
        self.checkpoints = checkpoints
        self.args = tiny.args(checkpoints, "--epochs", "12", "--checkpoint-seconds", "0", *more)

    def start(self) -> subprocess.Popen[str]:
        return start_script(SCRIPT, *self.args)

    def runs(self) -> list[Run]:
        return find_runs(self.checkpoints, "tumor_coarse")

    def saved_step(self) -> int:
        """The step of last.pt; 0 where there is none."""
        runs = self.runs()
        if not runs or not runs[0].checkpoint.is_file():
            return 0
        return int(load_checkpoint(runs[0].checkpoint)["step"])

    def wait_for_saves(self, process: subprocess.Popen[str], count: int) -> None:
        """Until the process has saved `count` times, or has ended."""
        first = self.saved_step()
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None and self.saved_step() < min(first + 3 * count, STEPS):
            assert time.monotonic() < end, "no progress"
            time.sleep(0.01)

    def whole(self) -> dict[str, Any]:
        """The last checkpoint of the one run that there is."""
        (run,) = self.runs()
        assert run.done
        return load_checkpoint(run.checkpoint)


@pytest.fixture(scope="module")
def unbroken(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The same training, never interrupted, in this process."""
    training = Training(tiny, tmp_path_factory.mktemp("unbroken"))
    train(parse_config(TUMOR_COARSE, training.args))
    return training


def assert_equal(training: Training, unbroken: Training) -> None:
    """The same network, optimizer and log, to the last bit."""
    ended, expected = training.whole(), unbroken.whole()
    assert ended["step"] == expected["step"] == STEPS
    assert same(ended["method"], expected["method"])
    for key, moments in expected["optimizers"][0]["state"].items():
        assert same(ended["optimizers"][0]["state"][key], moments)
    (run,), (other,) = training.runs(), unbroken.runs()
    assert (run.folder / "log.csv").read_bytes() == (other.folder / "log.csv").read_bytes()


def test_a_run_killed_at_random_moments_ends_with_the_same_weights(
    tiny: Tiny, tmp_path: Path, unbroken: Training
) -> None:
    training = Training(tiny, tmp_path)
    moments, shown = random.Random(), ""
    for saves in (0, 1, 2):
        process = training.start()
        if saves:
            training.wait_for_saves(process, saves)
        delay = moments.uniform(0, 0.4 if saves else 3.0)  # the first while it still starts
        time.sleep(delay)
        process.kill()
        shown += f"after {saves} saves and {delay:.3f} s:\n{process.communicate()[0]}\n"
    killed_at = training.saved_step()
    assert 0 < killed_at < STEPS, shown
    process = training.start()
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, shown + text
    assert f"resumes from step {killed_at}\n" in text
    assert not list(training.runs()[0].folder.glob(".*.part")), shown
    assert_equal(training, unbroken)


def test_sigterm_saves_exits_with_143_and_the_same_command_resumes(
    tiny: Tiny, tmp_path: Path, unbroken: Training
) -> None:
    training = Training(tiny, tmp_path)
    training.args[training.args.index("--checkpoint-seconds") + 1] = "3600"
    process = training.start()
    assert process.stdout is not None
    while "3 cases" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGSTOP)  # the second may take longer to start than it trains
    second = training.start()
    text, _ = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 2, text  # the first still holds the folder
    assert "another process works here" in text
    assert "Traceback" not in text
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    (run,) = training.runs()
    saved = training.saved_step()
    assert not run.done
    assert run.checkpoint.is_file()
    assert 0 <= saved < STEPS  # 0: the signal came before the first step
    assert len(read_log(run)) == saved
    process = training.start()
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, text
    assert f"resumes from step {saved}\n" in text
    assert_equal(training, unbroken)


def test_two_processes_equal_one_that_accumulates_two_samples(tiny: Tiny, tmp_path: Path) -> None:
    """Gradients are sums of two halves either way: the weights agree to 1e-6, the log to 1e-5."""
    more = ("--epochs", "4")
    pair, alone = (tiny.args(tmp_path / name, *more) for name in ("pair", "alone"))
    process = start_script(SCRIPT, *pair, processes=2)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, text
    assert text.count("3 cases") == 1  # one process speaks
    one = train(parse_config(TUMOR_COARSE, [*alone, "--accumulate", "2"]))
    (two,) = find_runs(tmp_path / "pair", "tumor_coarse")
    assert two.done
    assert load_checkpoint(two.checkpoint)["processes"] == 2
    expected = weights(one)
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    rows, expected_rows = read_log(two), read_log(one)
    assert len(rows) == len(expected_rows) == 6
    for row, other in zip(rows, expected_rows, strict=True):
        assert (row["step"], row["epoch"], row["lr"]) == tuple(
            other[name] for name in ("step", "epoch", "lr")
        )
        for name in ("total", "seg", "dis", "tran", "con", "cos", "grad_norm"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-5)


def test_what_a_user_can_fix_is_one_message_and_status_2(
    tiny: Tiny, tmp_path: Path, run_here: RunScript
) -> None:
    for more, message in (
        (["--centers", "none.toml"], "error: none.toml: cannot be read"),
        (["--method", "bl", "--slices"], "--slices: method bl has no such setting"),
        (["--lr", "1e20", "--epochs", "3"], "loss or gradient is not finite at "),
    ):
        status, text = run_here(ROOT / SCRIPT, tiny.args(tmp_path, *more))
        assert status == 2, text
        assert message in text
        assert text.count("error: ") == 1
        assert "Traceback" not in text


def test_what_is_not_finite_stops_both_processes_and_names_the_cases_of_both(
    tiny: Tiny, tmp_path: Path
) -> None:
    args = tiny.args(tmp_path, "--lr", "1e20", "--epochs", "4")
    process = start_script(SCRIPT, *args, processes=2)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    messages = re.findall(r"error: .*?not finite at ([^\n]*)\n", text)
    assert 1 <= len(messages) <= 2, text  # the launcher may end one process before it speaks
    for message in messages:
        assert len(re.findall(r"[AB]/[ab]\d \(", message)) == 2, text
    (run,) = find_runs(tmp_path, "tumor_coarse")
    assert not run.done
    assert load_checkpoint(run.checkpoint)["step"] == len(read_log(run)) > 0
