"""`SampleFeed`: the samples of a step, made at once on a CPU; errors and sizes reach the step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.step_crops import SOURCES, SPACING, make_crops
from data.dataset import Crop
from engine.checkpointing import NoCheckpoints, State, build_state
from engine.samples import SampleFeed, tensors_of
from engine.step import TrainingStep
from methods import make_config
from utils.config import Config
from utils.stages import STAGES

SHAPE = (16, 24, 32)


@pytest.fixture
def config() -> Config:
    return make_config(
        STAGES["tumor_fine"], "bl", width=8, spacing=SPACING, device="cpu", precision="fp32"
    )


@pytest.fixture
def state(config: Config) -> State:
    return build_state(config, torch.device("cpu"), SOURCES)


def test_each_step_takes_the_next_samples(config: Config, state: State) -> None:
    feed = SampleFeed(config, state, make_crops(SHAPE), 2)
    groups = [feed.take() for _ in range(2)]
    assert [sample.index for group in groups for sample in group.samples] == [0, 1, 2, 3]
    assert [group.cases for group in groups] == [["A/case_0", "B/case_1"], ["A/case_2", "B/case_3"]]
    assert groups[0].shapes == [SHAPE, SHAPE]


def test_on_a_cpu_nothing_is_made_ahead(config: Config, state: State) -> None:
    crops = make_crops(SHAPE)
    feed = SampleFeed(config, state, crops, 1)
    feed.begin()
    assert next(crops).index == 0
    assert feed.take().samples[0].index == 1
    assert tensors_of(feed.take().samples[0]) == []  # none is on a GPU


def test_what_fails_is_raised_by_the_step_that_needs_it_with_the_size_of_the_crop(
    config: Config, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_then_broken() -> Iterator[Crop]:
        yield next(make_crops(SHAPE))
        raise OSError("the disk is gone")

    feed = SampleFeed(config, state, one_then_broken(), 2)
    step = TrainingStep(config, state, NoCheckpoints(), 10)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="the disk is gone"):
        step.take_from(feed)
    assert step.shapes == [SHAPE]

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(state.method, "augment", out_of_memory)
    step = TrainingStep(config, state, NoCheckpoints(), 10)  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        step.take_from(SampleFeed(config, state, make_crops(SHAPE), 1))
    assert step.largest_crop == "16 x 24 x 32 = 12288 voxels, of A/case_0"
