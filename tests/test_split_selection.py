"""Which cases train: no case of the unseen center, whatever is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.case import Center
from data.centers import load_centers
from data.prepare.prepared_case import PreparedCase
from data.splits import Split
from engine.checkpointing import load_checkpoint
from engine.evaluation import run_stage
from engine.split_selection import select_splits, split_cases
from engine.training import fit
from tests.conftest import (
    SPACING,
    Tiny,
    make_tiny_case,
    read_log,
    train,
    write_tiny_centers,
)
from tests.volumes import to_image, write_volume
from utils.config import Config, Evaluation

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]


# splits


def test_without_sources_and_target_every_fold_is_trained(tiny_config: MakeConfig) -> None:
    runs = fit(tiny_config(target=None))
    assert [(run.sources, run.target) for run in runs] == [
        (("B", "C"), "A"), (("A", "C"), "B"), (("A", "B"), "C"),
    ]  # fmt: skip
    assert len({run.time for run in runs}) == 1
    assert all(run.done for run in runs)


@pytest.fixture
def centers(tiny: Tiny) -> dict[str, Center]:
    return load_centers(tiny.centers)


def test_sources_alone_mean_the_one_center_that_is_left(
    tiny_config: MakeConfig, centers: dict[str, Center]
) -> None:
    for stage, sources in (("tumor_fine", ("A", "C")), ("pancreas_fine", ("A", "C", "N"))):
        (split,) = select_splits(tiny_config(stage, target=None, sources=sources), centers)
        assert (split.sources, split.target) == (sources, "B")


@pytest.mark.parametrize(
    ("sources", "target", "message"),
    [
        (("A",), None, "leaves B, C unseen; name the one to test on by --target"),
        (("A", "B", "C"), None, "leaves no center unseen"),
        (("A", "X"), "C", "unknown center 'X'"),
        ((), "X", "unknown center 'X'"),
        (("A", "N"), "C", "center N has no lesions"),
        ((), "N", "center N has no lesions"),
    ],
)
def test_a_split_that_cannot_be_is_refused(
    sources: tuple[str, ...],
    target: str | None,
    message: str,
    tiny_config: MakeConfig,
    centers: dict[str, Center],
) -> None:
    with pytest.raises(ValueError, match=message):
        select_splits(tiny_config(sources=sources, target=target), centers)


def leaking(split: Split, case: tuple[str, str]) -> Split:
    """The split with a case of the unseen center smuggled into training."""
    leaked = replace(split)
    object.__setattr__(leaked, "train_cases", (*split.train_cases, case))
    return leaked


def test_a_case_of_the_unseen_center_cannot_train(
    tiny_config: MakeConfig,
    centers: dict[str, Center],
    tiny_prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config()
    (split,) = select_splits(config, centers)
    cases = split_cases(split, tiny_prepared)
    assert {case.center for case in cases} == {"A", "B"}
    with pytest.raises(ValueError, match="C/c0"):
        replace(split, train_cases=(*split.train_cases, ("C", "c0")))
    leaked = leaking(split, ("C", "c0"))
    with pytest.raises(ValueError, match="cases of the test set would train: C/c0"):
        split_cases(leaked, tiny_prepared)
    monkeypatch.setattr("engine.training.select_splits", lambda *_: [leaked])
    with pytest.raises(ValueError, match="cases of the test set would train: C/c0"):
        fit(config)


def test_a_case_that_was_not_prepared_is_named(
    tiny_config: MakeConfig, centers: dict[str, Center], tiny_prepared: Prepared
) -> None:
    (split,) = select_splits(tiny_config(), centers)
    with pytest.raises(ValueError, match="not prepared: B/b0"):
        split_cases(split, {**tiny_prepared, "B": []})


def add_double(folder: Path) -> None:
    """Copy the unseen center's first scan into source A, under another name."""
    image_hu, label = make_tiny_case(200)
    for kind, array in (("images", image_hu), ("labels", label)):
        write_volume(folder / "A" / kind / "other.nii.gz", to_image(array, SPACING))


def test_a_scan_of_the_unseen_center_under_another_name_cannot_train(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    centers = write_tiny_centers(tmp_path)
    add_double(tmp_path)
    config = tiny_config(centers=centers, cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"A/other and C/c0 are the same scan"):
        fit(config)
    assert not config.checkpoints.exists()


def test_a_center_that_drops_its_duplicates_trains_without_them(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    centers = write_tiny_centers(tmp_path, A="drop_duplicates = true")
    add_double(tmp_path)
    run = train(tiny_config(centers=centers, cache=tmp_path / "cache"))
    assert {row["cases"] for row in read_log(run)} == {"A/a0", "A/a1", "B/b0"}
    split = load_checkpoint(run.checkpoint)["split"]
    assert ["A", "other"] not in split["train_cases"]
    assert set(split["contents"]) == {"A/a0", "A/a1", "B/b0"}
    assert {len(key) for key in split["contents"].values()} == {16}
    assert run.dropped_cases == {("A", "other")}


# folds and held-out cases


@pytest.fixture
def four(tmp_path: Path, tiny_config: MakeConfig) -> MakeConfig:
    """Like `tiny_config`, on centers A with four patients and B with two."""
    centers = write_tiny_centers(tmp_path / "four", {"A": 4, "B": 2})
    more = {"centers": centers, "cache": tmp_path / "cache"}
    return lambda stage, **changes: tiny_config(stage, **more, **changes)


def test_four_folds_of_a_center_are_trained_and_each_tested_on_its_own_cases(
    four: MakeConfig,
) -> None:
    config = four("pancreas_coarse", target="A", fold="all", stride=1)
    runs = fit(config)
    assert [(run.fold, run.sources, run.target) for run in runs] == [
        (fold, ("A",), "A") for fold in range(4)
    ]
    tested = [case for run in runs for case in run.test_cases]
    assert sorted(tested) == [("A", f"a{k}") for k in range(4)]
    for run in runs:
        trained = {name for row in read_log(run) for name in row["cases"].split()}
        assert len(trained) == 3
        assert not trained & {"/".join(case) for case in run.test_cases}
    request = Evaluation(
        "pancreas_coarse",
        centers=config.centers,
        checkpoints=config.checkpoints,
        cache=config.cache,
        target="A",
        fold="all",
        device="cpu",
        precision="fp32",
        workers=0,
    )
    folders = run_stage(request)
    assert sorted(path.name for f in folders for path in f.glob("predictions/*")) == [
        f"a{k}.nii.gz" for k in range(4)
    ]
    assert [run.folder for run in fit(replace(config, fold="2", time=runs[0].time))] == [
        runs[2].folder  # one fold alone is the same run, done already
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": "0", "sources": ("B",)}, "leave --sources out"),
        ({"fold": "0", "target": "X"}, "choose from A, B"),
        ({"fold": "0", "target": "B"}, "B: 4 folds need as many patients, not 2"),
    ],
)
def test_folds_that_do_not_fit_are_refused(
    changes: dict[str, object], message: str, four: MakeConfig
) -> None:
    config = four("tumor_coarse", **{"target": "A", **changes})
    with pytest.raises(ValueError, match=message):
        select_splits(config, load_centers(config.centers))


def test_held_out_cases_never_train_and_are_written_in_the_run(four: MakeConfig) -> None:
    run = train(four("tumor_coarse", target="B", holdout=0.25, epochs=2))
    (held,) = run.heldout_cases
    trained = {name for row in read_log(run) for name in row["cases"].split()}
    assert len(trained) == 3
    assert "/".join(held) not in trained
    content = load_checkpoint(run.checkpoint)
    assert content["split"]["heldout_cases"] == [list(held)]
    whole = train(four("tumor_coarse", target="B", epochs=2))
    assert whole.folder != run.folder
    assert load_checkpoint(whole.checkpoint)["split_hash"] != content["split_hash"]
