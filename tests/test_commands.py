"""Arguments that the code writes are arguments that the scripts read."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.command_line import evaluation_arguments, parse_config, parse_evaluation
from utils.commands import ROOT, default_path, to_arguments
from utils.config import Evaluation
from utils.stages import TUMOR_FINE


def test_switches_lists_and_numbers_come_through_a_scripts_command_line() -> None:
    argv = to_arguments(
        {
            "slices": False,
            "tensorboard": True,
            "jitter_voxels": (-2, 10),
            "epochs": 7,
            "sources": ("A", "B"),
            "target": None,
            "time": None,
        }
    )
    config = parse_config(TUMOR_FINE, argv)
    assert (config.settings.slices, config.tensorboard) == (False, True)
    assert (config.stage.jitter_voxels, config.stage.epochs) == ((-2, 10), 7)
    assert (config.sources, config.target) == (("A", "B"), None)


@pytest.mark.parametrize(
    "evaluation",
    [
        Evaluation("tumor_fine"),
        Evaluation("tumor_fine", target="C", seed=0, fold="2", method="bl", time=("a", "b")),
        Evaluation("tumor_fine", Path("my centers.toml"), ("A", "B"), roi_source="mask", workers=0),
        Evaluation("tumor_fine", cases="heldout", window_voxels=4096),
        Evaluation("tumor_fine", target="C", released=Path("x.pth"), precision="bf16"),
    ],
)
def test_an_evaluation_is_what_its_arguments_give(evaluation: Evaluation) -> None:
    assert parse_evaluation(TUMOR_FINE, evaluation_arguments(evaluation)) == evaluation


def test_default_paths_are_the_repositorys_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, ROOT / "data", ROOT.parent):
        monkeypatch.chdir(folder)
        assert default_path("cache") == ROOT / "cache"
    monkeypatch.chdir(ROOT)
    assert default_path("cache") == Path("cache")
