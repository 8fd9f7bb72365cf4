"""nnU-Net itself, trained for two steps: what its own commands make of ours, end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from data.readers.volume import read_volume
from engine.case_metrics import read_cases
from engine.checkpointing import load_checkpoint
from engine.evaluation import run_stage
from engine.external import read_cost
from engine.run_folders import Run
from engine.training import fit
from methods import make_config
from methods.external import EXTERNAL
from tests.conftest import SPACING, Tiny
from utils.config import Evaluation
from utils.stages import STAGES

pytestmark = pytest.mark.slow

# The smallest plan that still has 3d_lowres for the tiny centers, and two steps of training.
SHORT = {
    **{"gpu_memory_gb": 0.01, "num_epochs": 1, "iterations": 2, "validation_iterations": 1},
    **{"folds": 2, "mirroring": False, "tile_step": 1.0},
}
Train = Callable[..., Run]


@pytest.fixture(scope="module")
def train(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a method with settings on A and B, for C, and evaluates it there."""
    pytest.importorskip("nnunetv2", reason="pip install -r requirements-nnunet.txt")
    checkpoints = tmp_path_factory.mktemp("nnunet") / "checkpoints"

    def run(method: str, **settings: Any) -> Run:
        config = make_config(
            STAGES["tumor_fine"],
            method,
            {**SHORT, **settings},
            centers=tiny.centers,
            cache=tiny.cache,
            checkpoints=checkpoints,
            sources=("A", "B"),
            spacing=SPACING,
            device="cpu",
            workers=0,
        )
        (made,) = fit(config)
        run_stage(
            Evaluation(
                "tumor_fine",
                centers=tiny.centers,
                cache=tiny.cache,
                checkpoints=checkpoints,
                method=method,
                device="cpu",
                workers=0,
            )
        )
        return made

    return run


def check_run(run: Run, tiny: Tiny, networks: int) -> None:
    """It is a run like any other, scored on C, whose cases nnU-Net has never had."""
    assert run.done
    home = run.folder / "nnunet"
    known = json.loads((home / "cases.json").read_text())
    assert sorted(known.values()) == [["A", "a0"], ["A", "a1"], ["B", "b0"]]
    assert not (home / "raw").exists()
    folder = run.folder / "evaluation_C_seg"
    rows, organ = read_cases(folder / "cases.csv"), read_cases(folder / "pancreas.csv")
    assert [row["case_id"] for row in rows] == [row["case_id"] for row in organ] == ["c0", "c1"]
    for row in (*rows, *organ):
        assert 0 <= row["dsc"] <= 100
    image = read_volume(tiny.centers.parent / "C" / "images" / "c0.nii.gz")
    labels = read_volume(folder / "label_maps" / "c0.nii.gz")
    assert labels.grid == image.grid
    assert set(np.unique(labels.array)) <= {0, 1, 2}
    cost = read_cost(run.checkpoint)
    assert cost.budget == (2, EXTERNAL[run.method].Settings().num_epochs * 250)
    content = load_checkpoint(run.checkpoint)
    assert len(content["networks"]) == networks
    assert all(parameters > 1e5 and macs > 1e6 for parameters, macs in content["networks"])


def test_the_cascade_and_its_low_resolution(train: Train, tiny: Tiny) -> None:
    run = train("nnunet_3d_cascade")
    check_run(run, tiny, networks=2)
    results = run.folder / "nnunet" / "results" / "Dataset001_sources"
    trained = sorted(
        f"{path.parent.name}".removeprefix("NnunetTrainer__Plans__") + f" {path.name}"
        for path in results.glob("*/fold_*")
    )
    assert trained == ["3d_cascade_fullres fold_0", "3d_lowres fold_0", "3d_lowres fold_1"]
    (lowres, cascade) = load_checkpoint(run.checkpoint)["networks"]
    assert cascade[0] - lowres[0] == 2 * 32 * 9  # 1 x 3 x 3 of two more inputs: pancreas, tumor


def test_full_resolution_by_the_residual_encoders_planner(train: Train, tiny: Tiny) -> None:
    run = train("nnunet_3d_fullres", planner="nnUNetPlannerResEncM", gpu_memory_gb=0.1)
    check_run(run, tiny, networks=1)
    (plans,) = (run.folder / "nnunet" / "results").rglob("plans.json")
    planned = json.loads(plans.read_text())["configurations"]["3d_fullres"]["architecture"]
    assert planned["network_class_name"].endswith(".ResidualEncoderUNet")


def test_what_the_planner_drops_is_reported(train: Train) -> None:
    with pytest.raises(ValueError, match=r"--method nnunet_3d_lowres: .*has dropped 3d_lowres"):
        train("nnunet_3d_lowres", gpu_memory_gb=1.0)


def test_pansegnet(train: Train, tiny: Tiny) -> None:
    run = train("pansegnet")
    check_run(run, tiny, networks=1)
    ((parameters, _),) = load_checkpoint(run.checkpoint)["networks"]
    assert parameters > 12_600_000  # its transformer
