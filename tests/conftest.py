"""Tiny centers on disk, and runs on them, for the tests of training and evaluation."""

from __future__ import annotations

import csv
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.centers import load_centers
from data.dataset import Crop
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from engine.checkpointing import State, load_checkpoint
from engine.run_folders import Run
from engine.step import TrainingStep
from engine.training import fit
from methods import make_config
from tests.volumes import to_image, write_volume
from utils.config import Config
from utils.distributed import Distributed
from utils.settings import setting_names
from utils.stages import STAGES, Stage

ROOT = Path(__file__).resolve().parents[1]
SHAPE, SPACING = (24, 32, 40), (3.0, 1.5, 1.5)  # voxels and mm, (z, y, x)
RunScript = Callable[..., tuple[int, str]]
CASES = {"A": 2, "B": 1, "C": 2, "N": 1}  # cases of each center; N has no lesions

for number in (signal.SIGINT, signal.SIGHUP):  # ignored in a background job, and by its children
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
torch.set_num_threads(1)  # as the subprocesses: a sum's order depends on the number of threads


# The files that take longest begin first, so that no process is left alone with one at the end.
LONGEST = (
    *("test_nnunet_training", "test_run", "test_training_processes", "test_slurm", "test_launch"),
    *("test_training_signals", "test_bundle", "test_methods", "test_export", "test_dofe"),
    *("test_mixstyle", "test_method_costs", "test_export_dataset", "test_report_browser"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of the files, for `--dist loadfile --no-loadscope-reorder`."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@dataclass(frozen=True)
class Tiny:
    """Centers A, B, C and N in the folder layout, and the cache that all tests share."""

    centers: Path  # centers.toml
    cache: Path

    def args(self, checkpoints: Path, *more: str) -> list[str]:
        """Arguments of a train script: the smallest run that is worth it, C unseen."""
        spacing = [str(length) for length in SPACING]
        return [
            *("--centers", str(self.centers), "--cache", str(self.cache), "--target", "C"),
            *("--checkpoints", str(checkpoints), "--spacing", *spacing, "--width", "8"),
            *("--device", "cpu", "--precision", "fp32", "--workers", "0", "--no-tensorboard"),
            *("--jitter-voxels", "0", "4", "--window-voxels", "32", "32", *more),
        ]


def make_tiny_case(seed: int, lesion: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """int16 HU and uint8 label of `SHAPE`: a bright pancreas, and in it a darker lesion."""
    rng = np.random.default_rng(seed)
    grid = np.indices(SHAPE)

    def blob(center: np.ndarray, radii: tuple[float, float, float]) -> np.ndarray:
        offset = (grid - center[:, None, None, None]) / np.reshape(radii, (3, 1, 1, 1))
        return (offset**2).sum(axis=0) <= 1

    middle = np.array([12, 16, 20]) + rng.uniform(-3, 3, 3)
    label = blob(middle, (6, 6, 9)).astype(np.uint8)
    if lesion:
        label[blob(middle + rng.uniform(-1, 1, 3), (3, 3, 4))] = 2
    image_hu = rng.normal(0, 30, SHAPE)
    for _ in range(6):  # organs of its own, so that no two cases look like one scan
        image_hu[blob(rng.uniform(0, SHAPE), (8, 7, 9))] += rng.uniform(-150, 150)
    image_hu += np.choose(label, [0, 120, 40])
    return np.rint(image_hu).astype(np.int16), label


def write_tiny_centers(folder: Path, cases: Mapping[str, int] = CASES, **lines: str) -> Path:
    """Write NIfTI centers in the folder layout, with their centers.toml; return its path.

    `cases`: how many of each center; N has no lesions. `lines`: more of a center's table, by name.
    """
    text = []
    for number, (name, count) in enumerate(cases.items()):
        for k in range(count):
            image_hu, label = make_tiny_case(100 * number + k, lesion=name != "N")
            for kind, array in (("images", image_hu), ("labels", label)):
                path = folder / name / kind / f"{name.lower()}{k}.nii.gz"
                write_volume(path, to_image(array, SPACING))
        text += [f'[centers.{name}]\nreader = "folder"\npath = "{name}"']
        text += ["has_lesions = false"] * (name == "N") + [lines.get(name, "")]
    path = folder / "centers.toml"
    path.write_text("\n".join(text), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Centers A, B, C and N on disk; a test must not change them."""
    folder = tmp_path_factory.mktemp("tiny")
    return Tiny(write_tiny_centers(folder), folder / "cache")


@pytest.fixture(scope="session")
def tiny_prepared(tiny: Tiny) -> dict[str, list[PreparedCase]]:
    """The prepared cases of each center."""
    centers = load_centers(tiny.centers).values()
    return prepare_centers(centers, tiny.cache, PrepareSettings(spacing=SPACING), workers=1)


@pytest.fixture
def tiny_config(tiny: Tiny, tmp_path: Path) -> Callable[..., Config]:
    """`tiny_config("tumor_fine", epochs=2, lr=0.1)`: a `Config` on the tiny centers, C unseen.

    Keywords are fields of `Stage` or `Config`; `settings` changes the method's settings by dotted
    name. Run folders go to `tmp_path / "checkpoints"`.
    """

    def make(stage_name: str = "tumor_coarse", **changes: object) -> Config:
        own = {name: changes.pop(name) for name in setting_names(Stage) if name in changes}
        small = {"epochs": 1, "jitter_voxels": (0, 4), "window_voxels": (32, 32)}
        values = {
            **{"target": "C", "centers": tiny.centers, "cache": tiny.cache, "spacing": SPACING},
            **{"checkpoints": tmp_path / "checkpoints", "width": 8, "device": "cpu"},
            **{"precision": "fp32", "workers": 0, "tensorboard": False, **changes},
        }
        return make_config(replace(STAGES[stage_name], **{**small, **own}), **values)  # type: ignore[arg-type]

    return make


def start_script(script: str, *args: str, processes: int = 1) -> subprocess.Popen[str]:
    """Start a script as a user would, from another folder, on one thread per process."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *(launcher if processes > 1 else []), str(ROOT / script), *args],
        cwd=ROOT.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",  # whatever the locale: messages of PyTorch hold more than ASCII
        errors="replace",
    )


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunScript:
    """Run a script in this process: its exit status, and what it wrote to stderr."""

    def run_script(script: str | Path, words: Sequence[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        monkeypatch.setattr(sys, "path", list(sys.path))
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(script), run_name="__main__")
        code: Any = caught.value.code
        return int(code), capsys.readouterr().err

    return run_script


def train(config: Config) -> Run:
    """Train a configuration with one split; its run."""
    (run,) = fit(config)
    return run


def read_log(run: Run) -> list[dict[str, str]]:
    """The rows of log.csv."""
    with (run.folder / "log.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def weights(run: Run) -> dict[str, Tensor]:
    """The network's tensors by name, as the checkpoint holds them."""
    return load_checkpoint(run.checkpoint)["method"]


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether the same names hold the same tensors, to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class NoFile:
    """Stands for the checkpointer where steps are taken without a run folder."""

    processes = Distributed()


def take_step(state: State, config: Config, crops: Sequence[Crop], steps: int = 10) -> TrainingStep:
    """One optimizer step on the crops, as the training loop takes it."""
    step = TrainingStep(config, state, NoFile(), steps)  # type: ignore[arg-type]
    samples = step.take(iter(crops), len(crops))
    state.method.train()
    state.method.training_step(samples, step)
    step.values = step.finish()  # type: ignore[attr-defined]
    state.step += 1
    state.method.after_step(step)
    return step


def gradient_of(state: State, config: Config, crops: Sequence[Crop]) -> dict[str, Tensor]:
    """The terms of one default step on the crops; the gradient is left on the parameters."""
    step = TrainingStep(config, state, NoFile(), 10)  # type: ignore[arg-type]
    state.method.train()
    for sample in step.take(iter(crops), len(crops)):
        step.backward(step.forward(state.method.loss, sample), 1 / len(crops))
    return step._sums
