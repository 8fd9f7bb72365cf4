"""The memory of a step, counted: a number of bytes, the same on every machine."""

from __future__ import annotations

import pytest
import torch

from benchmarks.bench_memory import GIB, count_saved
from benchmarks.cuda_autocast import CudaAutocast
from benchmarks.step_crops import sides_of
from utils.stages import STAGES


@pytest.mark.parametrize("stage", ["tumor_coarse", "tumor_fine"])
def test_two_views_at_the_cap_keep_less_than_16_gib(stage: str) -> None:
    sides = sides_of(STAGES[stage].max_voxels)
    assert abs(sides[0] * sides[1] * sides[2] / STAGES[stage].max_voxels - 1) < 0.1
    kept = count_saved(sides, plain=False) / GIB
    assert 4 < kept < 16
    assert kept < 0.45 * count_saved(sides, plain=True) / GIB


def test_a_known_layer_is_counted_as_it_is() -> None:
    """A 1x1x1 network of one convolution would hide in the rest: rules first."""
    x, weight = torch.empty(1, 8, 4, 4, 4), torch.empty(8, 8, 1, 1, 1)
    with CudaAutocast():
        assert torch.nn.functional.conv3d(x, weight).dtype == torch.bfloat16
        assert torch.nn.functional.group_norm(x.bfloat16(), 8).dtype == torch.float32
        assert (x + x.bfloat16()).dtype == torch.float32
    twice = count_saved((16, 32, 32), width=8, views=2, plain=False)
    once = count_saved((16, 32, 32), width=8, views=1, plain=False)
    weights = 2 * once - twice  # what does not grow with the views: the standardized weights
    assert 0 < weights < 0.5 * once
