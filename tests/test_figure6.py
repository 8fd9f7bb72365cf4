"""Fig. 6: a panel per model, numbers that its points give, the same picture twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data.splits import Split
from data.views import ViewSettings
from engine.checkpointing import save_checkpoint
from methods import build_method, make_config, read_config
from reproduce import figure6
from reproduce.analysis.figures import Request
from reproduce.experiments.cells import Cell
from tests._figure_fixtures import (
    commands,
    count_pixels,
    digest,
    evaluate,
    read_csv,
    rows_of,
)
from utils.settings import to_plain
from utils.stages import STAGES

pytest_plugins = ["tests._figure_plugin"]


def train(request: Request, cell: Cell) -> None:
    """The checkpoint of an evaluated cell, with weights as they are initialized."""
    folders = evaluate(request, cell, rows_of([50, 60, 70, 80]))
    for folder in folders:
        config = read_config(folder.parent / "config.json")
        torch.manual_seed(1)
        method = build_method(config)
        content = {"method": method.state_dict(), "config": to_plain(config), "step": 1}
        split = Split(config.sources, "C", (), ())
        content |= {"split": to_plain(split), "split_hash": split.hash}
        content |= {"signatures": {}}
        save_checkpoint(folder.parent / "last.pt", content)


def test_figure_6_has_a_panel_for_each_model_and_numbers_that_its_points_give(
    asked: Request,
) -> None:
    one = replace(asked, targets=("C",))
    train(one, one.cell("tumor_coarse", "C", method="bl"))
    train(one, one.cell("tumor_coarse", "C"))
    before = digest(one.plan.checkpoints)
    paths = figure6.run(one)
    assert [path.name for path in paths] == ["figure6.png", "figure6.pdf"]
    numbers = read_csv(one.out / "figure6.csv")
    assert {(row["model"], row["layer"], row["shown"]) for row in numbers} == {
        ("BL", "deep", "yes"),
        ("Ours", "projection", "yes"),
        ("Ours", "deep", "no"),
    }
    assert {row["view_mode"] for row in numbers} == {"as_run"}
    points = read_csv(one.out / "figure6_points.csv")
    for model in ("BL", "Ours"):
        own = [p for p in points if p["model"] == model]
        shown = next(row for row in numbers if row["model"] == model and row["shown"] == "yes")
        assert int(shown["lesion"]) == sum(p["class"] == "lesion" for p in own)
        assert int(shown["normal"]) == sum(p["class"] == "normal" for p in own)
        assert sum(p["view"] == "phi" for p in own) == len(own) / 2
        assert float(shown["perplexity"]) == pytest.approx(min(30, (len(own) - 1) / 3), rel=1e-5)
        for lesion, color in (("lesion", figure6.LESION), ("normal", figure6.NORMAL)):
            assert any(p["class"] == lesion for p in own)
            rgb = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
            assert count_pixels(paths[0], (rgb[0], rgb[1], rgb[2])) > 100
    assert digest(one.plan.checkpoints) == before
    content = digest(one.out)
    figure6.run(one)
    assert digest(one.out) == content  # seeded: drawn again, it is the same to the last byte


def test_both_models_are_shown_the_views_that_ours_has_trained_with(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(asked, targets=("C",))
    train(one, one.cell("tumor_coarse", "C", method="bl"))
    train(one, one.cell("tumor_coarse", "C"))
    changed = {"views.mode": "printed", "views.mix_range": (0.5, 1.0)}
    own = make_config(STAGES["tumor_coarse"], "ours", changed)
    monkeypatch.setattr(figure6, "read_config", lambda path: own)
    drawn = []

    def note(*given: object, views: ViewSettings, **settings: object) -> None:
        drawn.append(views)

    monkeypatch.setattr(figure6, "case_points", note)
    with pytest.raises(ValueError, match="no case has a lesion"):
        figure6.run(one)
    assert drawn == [ViewSettings("printed", mix_range=(0.5, 1.0))] * 8  # four cases, two models
    monkeypatch.undo()
    run = figure6.run_of(one, one.cell("tumor_coarse", "C"))
    assert run is not None
    assert figure6.trained_views("tumor_coarse", run) == ViewSettings("as_run")
    assert figure6.trained_views("tumor_coarse", None) == ViewSettings("as_run")


def test_a_missing_model_has_an_empty_panel_and_its_commands_are_told(
    asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    one = replace(asked, targets=("C",))
    train(one, one.cell("tumor_coarse", "C", method="bl"))
    figure6.run(one, per_case=1)
    out = capsys.readouterr().out
    assert "C, BL: perplexity 5.0, for 16 points" in out  # four cases, two classes, two views
    assert any("train_sh_tumor_coarse" in command for command in commands(out))
    assert {row["model"] for row in read_csv(one.out / "figure6.csv")} == {"BL"}


def test_too_few_points_end_it_with_the_reason(
    asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out = ("case_1", "case_2", "case_3")
    centers = {**asked.centers, "C": replace(asked.centers["C"], exclude=left_out)}
    one = replace(asked, targets=("C",), centers=centers)
    train(replace(one, centers=asked.centers), one.cell("tumor_coarse", "C"))
    with pytest.raises(ValueError, match=r"no panel to draw: .* two voxels of lesion"):
        figure6.run(one, per_case=1)
    assert "C, Ours: a silhouette needs two voxels" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--per-case 0: 1 or more"):
        figure6.run(one, per_case=0)
