"""Activations computed again: bytes as counted, choices by faked memory, equal gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.bench_memory import build, count_peak, count_saved
from data.dataset import Crop
from engine.checkpointing import NoCheckpoints, build_state
from engine.passes import make_crops
from engine.step import TrainingStep
from engine.training import set_checkpointing
from models.backbone import ResidualEncoderDecoder, forward_views
from models.recompute import (
    GIB,
    LOSS_BYTES,
    RESERVE,
    Plan,
    Recompute,
    step_bytes,
    waiting_bytes,
)
from tests.conftest import gradient_of, take_step
from utils.config import Config

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
SIDES = (32, 32, 32)
VOXELS = 32**3
FINE_CAP = (96, 248, 248)  # voxels: just below the 6.0 million of tumor_fine


@pytest.fixture
def crops() -> Iterator[Crop]:
    return make_crops()


# bytes


@pytest.mark.parametrize(("width", "half", "number_bytes"), [(32, True, 2), (8, False, 4)])
def test_what_waits_is_what_is_counted(width: int, half: bool, number_bytes: int) -> None:
    """Per view, so that the standardized weights, which both views share, drop out."""
    one, two = (
        count_saved(SIDES, width=width, views=views, plain=False, half=half) for views in (1, 2)
    )
    assert waiting_bytes(VOXELS, 1, width, number_bytes) == pytest.approx(two - one, rel=0.015)


@pytest.mark.parametrize(
    ("half", "number_bytes", "again"), [(True, 2, False), (True, 2, True), (False, 4, True)]
)
def test_the_peak_of_a_step_is_the_one_that_is_counted(
    half: bool, number_bytes: int, again: bool
) -> None:
    network = build("meta", 8, plain=False)
    counted = count_peak(SIDES, width=8, views=2, half=half, again=again)
    batch = 1 if again else 2
    planned = step_bytes(VOXELS, 2, network, number_bytes, batch=batch, again=again)
    alone = planned / RESERVE - 2 * LOSS_BYTES * VOXELS  # the network's part of it
    assert alone == pytest.approx(counted, rel=0.05)
    assert planned > counted


def test_the_losses_keep_less_than_is_planned_for_them(
    tiny_config: MakeConfig, crops: Iterator[Crop]
) -> None:
    state = build_state(tiny_config("tumor_fine"), CPU, ("A", "B"))
    method, crop = state.method, next(crops)

    def kept(work: Callable[[], object]) -> int:
        held = {}

        def pack(tensor: Tensor) -> Tensor:
            held[tensor.data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = work()
        assert result
        return sum(storage.nbytes() for storage in held.values())

    step = TrainingStep(state.method.config, state, NoCheckpoints(), 1)  # type: ignore[arg-type]
    (sample,) = step.take(iter([crop]), 1)
    with_losses = kept(lambda: step.forward(method.loss, sample))
    image = torch.rand(2, 1, *crop.image_hu.shape)
    without = kept(lambda: method.network(image))
    assert 0 < with_losses - without < LOSS_BYTES * 2 * crop.image_hu.numel()


# choosing, by faked memory


def ask(gib: float | None, views: int, mode: str = "auto", **more: object) -> Plan:
    """The plan for a crop at the cap of tumor_fine where so much is free; nothing is computed."""
    free = None if gib is None else int(gib * GIB)
    rule = Recompute(mode, free_memory=lambda device: free, **more)  # type: ignore[arg-type]
    image = torch.zeros(1).expand(1, 1, *FINE_CAP)
    with torch.autocast("cpu", torch.bfloat16):
        return rule.plan(build("meta", 32, plain=False), image, views)


@pytest.mark.parametrize(
    ("gib", "views", "plan"),
    [
        (80, 2, Plan.KEEP),
        (24, 2, Plan.KEEP),
        (16, 2, Plan.LEVELS),
        (8, 2, Plan.LEVELS),
        (8, 1, Plan.LEVELS),
        (24, 1, Plan.KEEP),
        (80, 6, Plan.KEEP),
        (24, 6, Plan.VIEWS),
        (8, 6, Plan.BOTH),
        (None, 2, Plan.KEEP),
        (None, 3, Plan.VIEWS),
    ],
)
def test_auto_keeps_what_the_free_memory_holds(gib: float | None, views: int, plan: Plan) -> None:
    assert ask(gib, views) is plan


def test_on_and_off_ask_for_no_memory() -> None:
    assert [ask(0, views, "off") for views in (1, 2, 3)] == [Plan.KEEP] * 3
    assert [ask(None, views, "on") for views in (1, 2, 3)] == [Plan.LEVELS] * 2 + [Plan.BOTH]
    with torch.no_grad():
        assert ask(0, 6) is Plan.KEEP
    with pytest.raises(ValueError, match="--checkpointing maybe: choose from auto, on, off"):
        Recompute("maybe")


def test_why_is_said_once_with_numbers() -> None:
    said: list[str] = []
    rule = Recompute(free_memory=lambda device: 2**20, say=said.append)
    network, image = ResidualEncoderDecoder(width=8), torch.zeros(1, 1, *SIDES)
    for views in (2, 2, 3, 3):
        assert rule.plan(network, image, views) is not Plan.KEEP
    assert len(said) == 2  # levels, then views and levels
    assert "2 views of 32 x 32 x 32 voxels would take about 0.1 GiB, 0.0 are free" in said[0]
    assert "--checkpointing off" in said[0]


# the same results


def outputs_and_gradients(mode: str, views: int) -> list[Tensor]:
    """Of a training pass in float32 with dropout, from one seed."""
    torch.manual_seed(0)
    network = ResidualEncoderDecoder(width=8, dropout=0.5).train()
    network.recompute = Recompute(mode)
    images = torch.rand(views, 1, 1, 16, 16, 24)
    outputs = forward_views(network, list(images))
    heads = [head for of in outputs for head in vars(of).values() if head is not None]
    state = torch.get_rng_state()
    torch.stack([head.square().mean() for head in heads]).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)  # computing again drew nothing of its own
    return [*heads, *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("mode", "views"), [("on", 1), ("on", 3), ("auto", 3)])
def test_computed_again_on_a_cpu_are_the_same_bits(mode: str, views: int) -> None:
    kept, again = outputs_and_gradients("off", views), outputs_and_gradients(mode, views)
    assert len(again) == len(kept) > 100
    assert all(map(torch.equal, again, kept))


def test_of_a_batch_computed_again_sample_by_sample_the_gradients_differ_by_rounding() -> None:
    kept, again = outputs_and_gradients("off", 2), outputs_and_gradients("on", 2)
    for own, expected in zip(again, kept, strict=True):
        assert (own - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("method", ["ours", "mixstyle", "dofe", "snr", "hog"])
def test_a_method_learns_the_same_with_activations_computed_again(
    method: str, tiny_config: MakeConfig, crops: Iterator[Crop]
) -> None:
    """MixStyle draws inside the network, HOG and SNR look into it: such levels are kept."""
    config, crop = tiny_config(method=method), next(crops)
    found = []
    for mode in ("off", "on"):
        state = build_state(config, CPU, ("A", "B"))
        set_checkpointing(state.method, mode)
        terms = gradient_of(state, config, [crop])
        grads = [p.grad.flatten() for p in state.method.parameters() if p.grad is not None]
        found.append((terms, torch.cat(grads)))
    (terms, kept), (terms_again, again) = found
    for name, term in terms.items():
        torch.testing.assert_close(terms_again[name], term, rtol=1e-4, atol=1e-5)
    assert (again - kept).norm() < 1e-3 * kept.norm()


def test_the_virtual_step_of_saml_is_undone_only_after_its_activations_are_there_again(
    tiny_config: MakeConfig, crops: Iterator[Crop]
) -> None:
    config = tiny_config(method="saml", settings={"inner_lr": 0.1})
    pair, found = [next(crops), next(crops)], []
    for mode in ("off", "on"):
        state = build_state(config, CPU, ("A", "B"))
        set_checkpointing(state.method, mode)
        found.append(take_step(state, config, pair).values)  # type: ignore[attr-defined]
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-4), name


def test_levels_that_are_computed_again_wait_with_a_third_of_the_bytes() -> None:
    def saved(mode: str) -> int:
        network = ResidualEncoderDecoder(width=8).train()
        network.recompute = Recompute(mode)
        held = {}

        def pack(tensor: Tensor) -> Tensor:
            held[tensor.data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = network(torch.rand(2, 1, *SIDES))
        assert outputs.logits.requires_grad
        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        return sum(s.nbytes() for key, s in held.items() if key not in own)

    assert saved("on") < saved("off") / 3
