"""Inference: mirrored inputs and windows in batches, what fits, and no wait for the device."""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import engine.inference
from benchmarks.cuda_autocast import CudaAutocast
from engine.batches import BYTES_PER_CHANNEL, FREE_SHARE, batch_size
from engine.inference import (
    Predictor,
    inputs_together,
    mirror_combinations,
    predict_mirrored,
)
from models.backbone import ResidualEncoderDecoder
from tests._inference_models import CPU, make_predictor
from utils.stages import TUMOR_FINE

GIB = 2**30
TOLERANCE = 1e-5  # of a probability: convolutions of a batch may add in another order
SHAPES = ((8, 16, 16), None), ((8, 16, 32), 8 * 16 * 16)  # at once, and cut into windows


def convolution(image: Tensor) -> Tensor:
    """A network that no mirror leaves as it is."""
    kernel = torch.linspace(-1, 1, 27).view(1, 1, 3, 3, 3)
    return torch.sigmoid(torch.nn.functional.conv3d(image, kernel, padding=1))


def project_network(width: int, device: torch.device = CPU) -> Callable[[Tensor], Tensor]:
    """The project's own, untrained, as a function."""
    torch.manual_seed(0)
    network = ResidualEncoderDecoder(width=width).eval().to(device)
    return lambda image: torch.sigmoid(network(image).logits.float())


def together(monkeypatch: pytest.MonkeyPatch, free_gib: float) -> None:
    """Batches as on a GPU with so much free memory."""

    def chosen(predictor: Predictor, voxels: int) -> int:
        free = int(free_gib * GIB)
        return batch_size(free, voxels, predictor.config.width, predictor.batches.voxels)

    monkeypatch.setattr(engine.inference, "inputs_together", chosen)


@pytest.mark.parametrize(("shape", "limit"), SHAPES)
def test_inputs_in_batches_give_what_they_give_one_by_one(
    shape: tuple[int, int, int], limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, network = make_predictor(convolution)
    predictor = replace(predictor, window_voxels=limit)
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    single, windows = predict_mirrored(predictor, image)
    calls = len(network.shapes)
    assert calls == 8 * max(windows, 1)
    together(monkeypatch, 10)
    found, in_batches = predict_mirrored(predictor, image)
    assert in_batches == windows
    assert len(network.shapes) - calls == (8 if windows else 1)
    torch.testing.assert_close(found, single, atol=TOLERANCE, rtol=0)


def test_on_a_cpu_inputs_go_one_by_one_and_the_mean_is_the_plain_sum_to_the_last_bit() -> None:
    predictor, network = make_predictor(convolution)
    assert inputs_together(predictor, 8**3) == 1
    image = torch.rand(1, 1, 16, 16, 24, generator=torch.Generator().manual_seed(2))
    plain = torch.zeros_like(image)
    with torch.inference_mode():
        for axes in mirror_combinations((0, 1, 2)):
            plain += network.function(image.flip(axes)).flip(axes) / 8
    assert torch.equal(predict_mirrored(predictor, image)[0], plain)


def test_a_batch_is_as_large_as_memory_and_cudnns_index_allow() -> None:
    crop = 64 * 224 * 224
    a_crop = crop * 32 * BYTES_PER_CHANNEL / FREE_SHARE
    for crops, expected in ((0.5, 1), (1.9, 1), (2.1, 2), (3.9, 2), (4.1, 4), (100, 8)):
        assert batch_size(int(crops * a_crop), crop, 32) == expected
    assert batch_size(10**15, 2**24, 32) == 1  # 2 ** 31 numbers for two
    assert batch_size(10**15, 2**23, 32) == 2
    assert batch_size(10**15, crop, 32, most_voxels=2 * crop) == 2


def test_a_batch_that_is_too_large_is_halved_once_for_all_crops(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: list[int] = []

    def hungry(image: Tensor) -> Tensor:
        sizes.append(len(image))
        if len(image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return image.clone()

    predictor, _ = make_predictor(hungry)
    together(monkeypatch, 100)
    image = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            prob, windows = predict_mirrored(predictor, image)
            torch.testing.assert_close(prob, image)
            assert windows == 0
    assert sizes == [8, 4, *[2] * 8]
    ends = [record.message.rpartition(" ")[2] for record in caplog.records]
    assert ends == ["4", "2"]


class Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a device: a number or an array that it wants to have."""

    NAMES = ("aten.item", "aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten._to_copy")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func).rpartition(".")[0]
        if name in self.NAMES:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("shape", "limit"), SHAPES)
def test_nothing_waits_for_the_device_between_the_image_and_the_probability(
    shape: tuple[int, int, int], limit: int | None
) -> None:
    predictor, _ = make_predictor(project_network(8), replace(TUMOR_FINE, mirror_axes=(2,)))
    predictor = replace(predictor, window_voxels=limit)
    image = torch.rand(1, 1, *shape)
    predict_mirrored(predictor, image)  # the windows' weights are made once
    with Waits() as waits:
        predict_mirrored(predictor, image)
    assert waits.counts == {}
    with Waits() as waits:
        float(image.sum())
    assert waits.counts  # the counter counts


class Held(TorchDispatchMode):
    """The most bytes that are held at once by what is computed inside."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.held:
                    self.held[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.held.pop, storage._cdata)
                    self.most = max(self.most, sum(self.held.values()))
        return made


@pytest.mark.parametrize(("half", "counted"), [(False, 18), (True, 15)])
def test_the_memory_of_a_pass_is_below_the_estimate(half: bool, counted: float) -> None:
    width = 32
    with torch.device("meta"):  # no bytes are needed to count them
        network = ResidualEncoderDecoder(width=width).eval()
    most = []
    for batch in (1, 3):
        image = torch.empty(batch, 1, 32, 64, 64, device="meta")
        with torch.no_grad(), Held() as held, CudaAutocast() if half else nullcontext():
            torch.sigmoid(network(image).logits.float())
        most.append(held.most)
    per_crop = (most[1] - most[0]) / 2  # without the weights, which are there once
    per_channel = per_crop / (32 * 64 * 64 * width)
    assert per_channel == pytest.approx(counted, abs=0.5)
    assert per_channel < BYTES_PER_CHANNEL


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_batch_gives_what_a_cpu_gives_one_by_one() -> None:
    image = torch.rand(1, 1, 16, 32, 40, generator=torch.Generator().manual_seed(4))
    found = []
    for device in (CPU, torch.device("cuda")):
        predictor, _ = make_predictor(project_network(8, device), device=device)
        found.append(predict_mirrored(predictor, image.to(device))[0].cpu())
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=0)
