"""The eight scripts: they start from any folder, and wrong input ends with one message."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.centers import load_centers
from tests._evaluation_fixtures import Place, hu_window, small_stage, write_run
from tests.conftest import RunScript
from utils.stages import STAGE_NAMES

pytest_plugins = ["tests._evaluation_plugin"]

ROOT = Path(__file__).resolve().parents[1]
TRAIN = {s: ROOT / f"train_{s.partition('_')[0]}" / f"train_sh_{s}.py" for s in STAGE_NAMES}
EVALUATE = {
    s: ROOT / f"evaluate_{s.partition('_')[0]}" / f"evaluate_sh_{s}.py" for s in STAGE_NAMES
}


def start(script: Path, *words: str, folder: Path) -> subprocess.Popen[str]:
    """A script in a process of its own, as a user in `folder` starts it."""
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_wrong_input_ends_a_process_with_status_2_and_without_a_traceback(tmp_path: Path) -> None:
    running = [
        start(scripts["tumor_fine"], "--centers", "none.toml", folder=tmp_path)
        for scripts in (TRAIN, EVALUATE)
    ]
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 2
        assert out == ""
        where = re.escape(str(tmp_path / "none.toml"))
        assert re.fullmatch(
            rf"error: none\.toml: cannot be read \(there is no file {where}\); .*: "
            r"cp \S*centers\.example\.toml none\.toml\n",
            err,
        )


@pytest.mark.parametrize("stage", STAGE_NAMES)
@pytest.mark.parametrize("scripts", [TRAIN, EVALUATE], ids=["train", "evaluate"])
def test_a_centers_file_that_is_missing_is_named(
    scripts: dict[str, Path], stage: str, run_here: RunScript
) -> None:
    status, err = run_here(scripts[stage], ["--centers", "none.toml"])
    assert status == 2
    assert err.startswith("error: none.toml: cannot be read")
    assert err.count("\n") == 1


@pytest.mark.parametrize("stage", STAGE_NAMES)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--width", "7"], "--width 7: a multiple of 8"),
        (["--epochs", "0"], "--epochs 0: at least 1"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--upsample", "cubic"], "invalid choice: 'cubic'"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--sources", "A", "B", "--target", "A"], "cannot be the unseen one"),
    ],
)
def test_a_wrong_setting_of_a_training_is_named(
    words: list[str], message: str, stage: str, run_here: RunScript
) -> None:
    status, err = run_here(TRAIN[stage], words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("stage", STAGE_NAMES)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--roi-source", "both"], "invalid choice: 'both'"),
        (["--precision", "int8"], "invalid choice: 'int8'"),
        (["--epochs", "3"], "unrecognized arguments: --epochs 3"),
        (["--sources"], "argument --sources: expected at least one argument"),
    ],
)
def test_a_wrong_setting_of_an_evaluation_is_named(
    words: list[str], message: str, stage: str, run_here: RunScript
) -> None:
    status, err = run_here(EVALUATE[stage], words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_an_evaluation_without_a_training_says_how_to_train(
    stage: str, place: Place, run_here: RunScript
) -> None:
    words = ["--centers", str(place.centers), "--checkpoints", str(place.checkpoints)]
    status, err = run_here(EVALUATE[stage], words)
    assert status == 2
    assert err.startswith(f"error: no trained {stage} in {place.checkpoints} fits; train it with")
    assert "train_sh_" in err
    assert "Traceback" not in err


def test_wrong_requests_end_with_one_message(place: Place, run_here: RunScript) -> None:
    write_run(place.checkpoints, small_stage("pancreas_coarse"), hu_window(60.0))
    paths = ["--centers", str(place.centers), "--checkpoints", str(place.checkpoints)]
    paths += ["--cache", str(place.cache)]
    names = ", ".join(load_centers(place.centers))
    messages = {
        ("--target", "X"): f"error: --target X: not in {place.centers}, which has {names}\n",
        ("--device", "tpu"): "error: --device tpu: choose cpu, cuda, cuda:N or auto\n",
        ("--roi-source", "mask"): "error: --roi-source mask is for the tumor stages: "
        "it replaces the pancreas ones\n",
    }
    for words, message in messages.items():
        assert run_here(EVALUATE["pancreas_coarse"], [*paths, *words]) == (2, message)
    status, err = run_here(EVALUATE["pancreas_coarse"], [*paths, "--time", "20000101-000000"])
    assert status == 2
    assert "20250101-000000 trained on A B" in err
    train = ["--cache", str(place.cache), *paths[:4], "--target", "X", "--device", "cpu"]
    status, err = run_here(TRAIN["pancreas_coarse"], train)
    assert (status, err) == (2, f"error: unknown center 'X'; choose from {names}\n")
