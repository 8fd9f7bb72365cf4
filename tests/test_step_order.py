"""Samples of like size share a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from data.dataset import SAMPLINGS, StageDataset
from data.prepare.prepared_case import PreparedCase
from engine.step_order import order_groups
from utils.stages import STAGES, TUMOR_COARSE, TUMOR_FINE, Stage

Prepared = dict[str, list[PreparedCase]]


class Sized(StageDataset):
    """A dataset of crops of known sizes."""

    def __init__(self, sizes: np.ndarray, group: int = 1, seed: int = 0) -> None:
        self.sizes, self.seed = sizes, seed
        self._orders = [[]] * group

    def voxels(self, index: int) -> int:
        return int(self.sizes[index])


@pytest.fixture
def sizes() -> np.ndarray:
    return np.random.default_rng(3).integers(1, 1000, size=400)


@pytest.fixture
def tiny_dataset(tiny_prepared: Prepared) -> Callable[[Stage, str], StageDataset]:
    def make(stage: Stage, sampling: str) -> StageDataset:
        cases = [*tiny_prepared["A"], *tiny_prepared["B"]]
        return StageDataset(cases, stage, 5, sampling, ("A", "B"))

    return make


def busy(sizes: np.ndarray, steps: list[list[int]]) -> float:
    """Part of the processes' time that they work, where time is a crop's size."""
    taken = sizes[np.array(steps)]
    return float(taken.mean() / taken.max(1).mean())


@pytest.mark.parametrize("per_step", [2, 4])
def test_processes_wait_less_and_every_sample_comes_once(sizes: np.ndarray, per_step: int) -> None:
    stop = 400 // per_step
    drawn = list(order_groups(Sized(sizes), per_step, 1, 0, stop))
    alike = list(order_groups(Sized(sizes), per_step, 16, 0, stop))
    assert drawn == np.arange(400).reshape(stop, per_step).tolist()
    assert sorted(np.ravel(alike)) == list(range(400))
    assert busy(sizes, drawn) < 0.8
    assert busy(sizes, alike) > 0.95
    for first in range(0, stop, 16):  # no sample leaves its steps
        own = np.ravel(alike[first : first + 16])
        assert sorted(own) == list(range(first * per_step, min(first + 16, stop) * per_step))


def test_steps_come_neither_by_size_nor_by_position(sizes: np.ndarray) -> None:
    steps = np.array(list(order_groups(Sized(sizes), 2, 100, 0, 100)))
    means = sizes[steps].mean(1)
    assert abs(np.corrcoef(means, np.arange(100))[0, 1]) < 0.3
    other = np.array(list(order_groups(Sized(sizes, seed=1), 2, 100, 0, 100)))
    assert not np.array_equal(steps, other)
    assert {tuple(step) for step in steps} == {tuple(step) for step in other}


@pytest.mark.parametrize("start", [1, 15, 16, 17, 40, 49, 50])
def test_a_resumed_run_goes_on_where_it_was(sizes: np.ndarray, start: int) -> None:
    whole = list(order_groups(Sized(sizes), 2, 16, 0, 50))
    assert list(order_groups(Sized(sizes), 2, 16, start, 50)) == whole[start:]


def test_one_sample_a_step_comes_as_drawn(sizes: np.ndarray) -> None:
    class Unread(Sized):
        def voxels(self, index: int) -> int:
            raise AssertionError("no size is needed")

    order = list(order_groups(Unread(sizes), 1, 16, 3, 40))
    assert order == [[group] for group in range(3, 40)]


def test_a_group_is_as_large_as_its_samples_together() -> None:
    sizes = np.array([9, 9, 1, 30, 5, 6, 2, 28])  # groups of 18, 31, 11, 30
    steps = list(order_groups(Sized(sizes, group=2), 2, 2, 0, 2))
    assert sorted(map(sorted, steps)) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", STAGES)
def test_the_size_is_that_of_the_crop(
    name: str, sampling: str, tiny_dataset: Callable[[Stage, str], StageDataset]
) -> None:
    often = replace(STAGES[name], rescale_probability=0.5)
    small = replace(often, max_voxels=2 * 8**3)  # crops above it are resized
    for stage in (often, small, replace(often, stride=2)):
        dataset = tiny_dataset(stage, sampling)
        for index in range(8):
            crop = dataset[index]
            assert dataset.voxels(index) == np.prod(crop.resize_to or crop.image_hu.shape)


def test_crops_differ_in_what_is_tested_here(
    tiny_dataset: Callable[[Stage, str], StageDataset],
) -> None:
    for stage in (TUMOR_COARSE, TUMOR_FINE):
        dataset = tiny_dataset(stage, "shuffled")
        assert len({dataset.voxels(index) for index in range(20)}) > 1
