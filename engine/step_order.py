"""Which samples share a step: those of like size, so that no process waits for a larger crop.

The processes of a step wait for the one with the largest crop, and crops differ by several times.
Among the samples of some steps, sorted by size, neighbors share a step; the steps then come in an
order of chance. Each sample is still seen once, at most so many steps before or after its turn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.dataset import StageDataset, sample_seed

_PURPOSE = 1000  # of the seed, that no sample's has


def order_groups(
    dataset: StageDataset, per_step: int, sorted_steps: int, start: int, stop: int
) -> Iterator[list[int]]:
    """The groups of samples of each step from `start` to `stop`, `per_step` of them.

    Sorted among each `sorted_steps` steps, of which `stop` ends the last ones. A function of the
    dataset's seed and these numbers; a resumed run gives the same `stop`.
    """
    for first in range(start // sorted_steps * sorted_steps, stop, sorted_steps):
        steps = min(sorted_steps, stop - first)
        groups = np.arange(first * per_step, (first + steps) * per_step).reshape(steps, per_step)
        if per_step > 1 and steps > 1:
            voxels = [_voxels(dataset, group) for group in groups.ravel().tolist()]
            groups = groups.ravel()[np.argsort(voxels, kind="stable")].reshape(groups.shape)
            seed = sample_seed(dataset.seed, first, _PURPOSE)
            np.random.default_rng(seed).shuffle(groups)
        yield from groups[max(start - first, 0) :].tolist()


def _voxels(dataset: StageDataset, group: int) -> int:
    """Of all samples of a group."""
    own = range(group * dataset.group, (group + 1) * dataset.group)
    return sum(dataset.voxels(index) for index in own)
