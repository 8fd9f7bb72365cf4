"""Which cases train: no case of the unseen center, whatever is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.centers import Center, load_centers
from data.preprocess import PreparedCase
from data.splits import Split
from tests.conftest import (
    SPACING,
    Tiny,
    make_tiny_case,
    read_log,
    train,
    write_tiny_centers,
)
from tests.volumes import to_image, write_volume
from utils.checkpoint import load_checkpoint
from utils.splits import select_splits, split_cases
from utils.stages import Config
from utils.training import fit

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
    monkeypatch.setattr("utils.training.select_splits", lambda *_: [leaked])
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


def test_a_center_that_drops_its_doubles_trains_without_them(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    centers = write_tiny_centers(tmp_path, A="drop_doubles = true")
    add_double(tmp_path)
    run = train(tiny_config(centers=centers, cache=tmp_path / "cache"))
    assert {row["cases"] for row in read_log(run)} == {"A/a0", "A/a1", "B/b0"}
    assert ["A", "other"] not in load_checkpoint(run.checkpoint)["split"]["train_cases"]
    assert run.dropped_cases == {("A", "other")}
