"""`--released FILE`: the authors' network in place of a run, through the whole evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import engine.inference
from engine.command_line import parse_evaluation
from engine.evaluation import run_stage
from engine.inference import load_released_predictor
from engine.run_folders import find_runs
from tests._evaluation_fixtures import (
    CASES,
    Place,
    hu_window,
    parsed,
    printed_commands,
    read_rows,
    read_summary,
    small_stage,
    write_run,
)
from tests.test_released import Reference, released_state, without
from utils.config import Evaluation
from utils.stages import STAGE_NAMES, TUMOR_FINE

pytest_plugins = ["tests._evaluation_plugin"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of the released network's size, without the heads that prediction needs not."""
    path = tmp_path_factory.mktemp("released") / "pancreas coarse.pth"
    torch.save({"module." + k: v for k, v in without(released_state(32), "slices").items()}, path)
    return path


@pytest.fixture
def evaluate(place: Place, file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    small = {"window_voxels": (16, 16), "mirror_axes": ()}  # 19 million parameters are slow
    stages = {name: small_stage(name, **small) for name in STAGE_NAMES}
    monkeypatch.setattr(engine.inference, "STAGES", stages)

    def run(stage: str, **changes: Any) -> Path:
        (folder,) = run_stage(place.request(stage, **{"released": file, **changes}))
        return folder

    return run


def test_the_probability_is_that_of_the_released_network(file: Path) -> None:
    predictor = load_released_predictor(file, "tumor_fine", "cpu")
    assert (predictor.stage, predictor.precision) == (TUMOR_FINE, "fp32")
    assert predictor.split is None
    image = torch.rand(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = predictor.predict(image)
        expected = torch.sigmoid(Reference(released_state(32))(image).logits)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_file_that_is_no_released_network_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: no conv_4_32\.0\.weight"):
        load_released_predictor(tmp_path / "other.pth", "tumor_fine", "cpu")


@pytest.mark.slow
def test_a_released_file_is_evaluated_through_its_own_stages(
    place: Place,
    file: Path,
    evaluate: Callable[..., Path],
    predicted: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run(place.checkpoints, small_stage("pancreas_coarse"), hu_window(60.0))  # not these
    with pytest.raises(FileNotFoundError, match="no released network of it") as caught:
        evaluate("pancreas_fine", sources=("A", "B"))
    (command,) = printed_commands(caught.value)
    request = parsed(command)
    assert isinstance(request, Evaluation)
    assert (request.stage, request.target) == ("pancreas_coarse", "C")
    assert (str(request.released), request.sources) == ("STATE_DICT_OF_PANCREAS_COARSE", ("A", "B"))

    coarse = evaluate("pancreas_coarse", sources=("A", "B"))
    assert f"{file}: nothing tells which cases have trained" in capsys.readouterr().out
    assert coarse.name == "evaluation_C_seg"
    time = coarse.parent.name.partition("_")[0]
    assert coarse.parent.name == f"{time}_pancreas_coarse_released"
    assert tuple(read_rows(coarse)) == CASES
    summary = read_summary(coarse)
    assert summary["checkpoint_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (summary["method"], summary["sources"], summary["target"]) == (
        "released", ["A", "B"], "C",
    )  # fmt: skip
    assert (coarse / "done").is_file()

    predicted.clear()
    assert evaluate("pancreas_coarse", sources=("A", "B")) == coarse
    assert predicted == []  # nothing is done twice
    assert read_summary(evaluate("pancreas_fine", sources=("A", "B")))["previous"] == str(
        coarse.relative_to(place.checkpoints)
    )
    (run,) = find_runs(place.checkpoints, "pancreas_coarse", method="released")
    assert (run.seed, run.target, run.done) == (None, None, True)
    assert json.loads((run.folder / "run.json").read_text())["released"] == str(file)


def test_a_file_that_cannot_be_read_leaves_no_folder(
    place: Place, evaluate: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"--released .*none\.pth: no file there; give"):
        evaluate("pancreas_coarse", released=tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ValueError, match=r"text\.pth: not readable"):
        evaluate("pancreas_coarse", released=tmp_path / "text.pth")
    assert not place.checkpoints.exists()


def test_a_target_among_the_sources_and_the_time_of_another_file_are_refused(
    place: Place, evaluate: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match="--target C: is one of --sources"):
        evaluate("pancreas_coarse", sources=("A", "C"))
    (place.checkpoints / "mine_pancreas_coarse_released").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"made from another file .* another --time"):
        evaluate("pancreas_coarse", time=("mine",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--released: needs --target"),
        (["--target", "C", "--cases", "heldout"], "--cases heldout: not with --released"),
        (["--target", "C", "--threshold", "source-val"], "--threshold source-val: not with"),
        (["--target", "C", "--fold", "1", "--seed", "0"], "--fold, --seed: not with --released"),
        (["--target", "C", "--method", "bl"], "--method: not with --released"),
    ],
)
def test_what_only_a_run_has_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_evaluation(TUMOR_FINE, ["--released", "x.pth", *words])
    assert message in capsys.readouterr().err
