"""Inference in windows: above the cap, and where a GPU's memory runs out."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data.roi import Box
from engine.inference import predict_mirrored, predict_prepared, predict_windows, window_shape
from tests._inference_models import make_predictor
from utils.stages import TUMOR_FINE


def test_a_window_has_sides_of_8_fits_the_volume_and_is_as_large_as_allowed() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        z, y, x = (8 * rng.integers(1, 30, 3)).tolist()
        voxels = int(rng.integers(512, 2 * z * y * x + 513))
        window = window_shape((z, y, x), voxels)
        assert all(side % 8 == 0 for side in window)
        assert all(8 <= side <= n for side, n in zip(window, (z, y, x), strict=True))
        assert np.prod(window) <= voxels
        larger = [min(side + 8, n) for side, n in zip(window, (z, y, x), strict=True)]
        assert window == (z, y, x) or np.prod(larger) > voxels


def test_a_window_keeps_the_proportions_of_the_volume() -> None:
    shape = (64, 224, 224)
    assert window_shape(shape, 401_408) == (32, 112, 112)
    assert window_shape(shape, 401_407) == (24, 112, 112)
    assert window_shape(shape, 64 * 224 * 224) == shape
    assert window_shape(shape, 1) == (8, 8, 8)


def test_a_crop_of_any_size_goes_through_at_once_unless_a_limit_is_given() -> None:
    predictor, network = make_predictor(lambda image: image**2)
    image = torch.rand(1, 1, 16, 40, 48, generator=torch.Generator().manual_seed(3))
    prob, windows = predict_windows(predictor, image)
    torch.testing.assert_close(prob, image**2)
    assert (network.shapes, windows) == ([(16, 40, 48)], 0)
    network.shapes.clear()
    prob, windows = predict_windows(predictor, image, 8_000)
    torch.testing.assert_close(prob, image**2)
    assert windows == len(network.shapes) > 1
    assert all(np.prod(shape) <= 8_000 for shape in network.shapes)
    assert all(side % 8 == 0 for shape in network.shapes for side in shape)


def test_windows_that_were_asked_for_are_counted_in_the_prediction() -> None:
    predictor, network = make_predictor(lambda image: image, replace(TUMOR_FINE, rounds=1))
    image_hu = np.zeros((16, 40, 48), np.int16)
    around = Box((0, 0, 0), image_hu.shape)
    assert predict_prepared(predictor, image_hu, around, 0.5).windows == 0
    network.shapes.clear()
    cut = replace(predictor, window_voxels=8_000)
    windows = predict_prepared(cut, image_hu, around, 0.5).windows
    assert len(network.shapes) == 8 * windows  # 8 mirrored inputs
    assert windows > 1


def test_windows_overlap_and_are_blended() -> None:
    # A network that marks the border of its window: blended, no voxel is border alone.
    def border(window: Tensor) -> Tensor:
        marked = torch.ones_like(window)
        marked[..., 1:-1] = 0
        return marked

    predictor, network = make_predictor(border)
    found, windows = predict_windows(predictor, torch.zeros(1, 1, 8, 8, 96), 8 * 8 * 32)
    prob = found[0, 0, 4, 4]
    assert network.shapes == [(8, 8, 32)] * len(network.shapes)
    assert (
        len(network.shapes) == windows == 4
    )  # 3 side by side, one more for an overlap of a quarter
    assert prob[0] == prob[-1] == 1
    assert prob[1:-1].max() < 0.5


class FullMemory:
    """A network that cannot take more than `voxels`, or fails at one of its calls."""

    def __init__(self, voxels: int, error: BaseException, fails_at: int | None = None) -> None:
        self.voxels, self.error, self.fails_at, self.calls = voxels, error, fails_at, 0

    def __call__(self, image: Tensor) -> Tensor:
        self.calls += 1
        if image.numel() > self.voxels or self.calls == self.fails_at:
            raise self.error
        return image.clone()


GPU_FULL = torch.OutOfMemoryError("CUDA out of memory (simulated)")
ERRORS = (
    GPU_FULL,
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_is_tried_again_with_smaller_windows(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, network = make_predictor(FullMemory(70_000, error))
    image = torch.rand(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(4))
    with caplog.at_level(logging.WARNING):
        prob, windows = predict_mirrored(predictor, image)
    torch.testing.assert_close(prob, image)
    halves = ["131072", "65536"]
    assert [record.message.split()[-2] for record in caplog.records] == halves
    assert all("out of memory" in record.message for record in caplog.records)
    assert max(np.prod(shape) for shape in network.shapes[2:]) <= 65_536
    assert windows == len(network.shapes[2:]) / 8
    assert predictor.window_voxels is None  # the next crop may be smaller


def test_memory_that_runs_out_between_two_mirrors_leaves_nothing_behind() -> None:
    predictor, _ = make_predictor(FullMemory(10**9, GPU_FULL, fails_at=5))
    image = torch.rand(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(predict_mirrored(predictor, image)[0], image)


def test_another_error_of_the_network_is_not_taken_for_a_lack_of_memory() -> None:
    full = FullMemory(1000, RuntimeError("shapes do not match"))
    predictor, _ = make_predictor(full)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predict_mirrored(predictor, torch.zeros(1, 1, 64, 64, 64))
    assert full.calls == 1


def test_memory_that_is_too_small_for_any_window_is_an_error() -> None:
    full = FullMemory(1000, GPU_FULL)
    predictor, _ = make_predictor(full)
    with pytest.raises(torch.OutOfMemoryError):
        predict_mirrored(predictor, torch.zeros(1, 1, 64, 64, 64))
    assert full.calls < 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_really_full_falls_back_too() -> None:
    device = torch.device("cuda")

    def hungry(image: Tensor) -> Tensor:
        held = image.new_zeros(int(image.numel() * 2e4))  # 80 kB per voxel
        return image + held[0]

    predictor, network = make_predictor(hungry, device=device)
    image = torch.rand(1, 1, 128, 128, 128, device=device)  # 168 GB
    prob, windows = predict_mirrored(predictor, image)
    torch.testing.assert_close(prob, image)
    assert windows > 0
    assert network.shapes[0] == (128, 128, 128)
