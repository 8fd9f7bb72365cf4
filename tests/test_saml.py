"""SAML: the virtual step, where each gradient is taken, the shapes' features, neutral settings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import Crop
from data.targets.contours import contour_and_ring
from data.targets.sdm import bounding_box
from engine.checkpointing import State, build_state
from methods import build_method
from methods.saml import (
    CONTOUR,
    RING,
    Saml,
    Shape,
    clipped,
    masked_means,
    pool_shapes,
    virtual_step,
)
from tests._center_pairs import (
    CPU,
    SOURCES,
    MakeConfig,
    Prepared,
    assert_equal_runs,
    assert_near_in_16_bits,
    begin_step,
    cost,
    make_pairs,
    network_after,
    train_with_and_without_a_kill,
)
from tests.conftest import read_log, same, take_step
from utils.config import Config

NO_SHAPE = {"weights": {"compact": 0.0, "smooth": 0.0}}


@pytest.fixture
def pairs(tiny_prepared: Prepared) -> list[list[Crop]]:
    return make_pairs(tiny_prepared)


def saml(state: State) -> Saml:
    assert isinstance(state.method, Saml)
    return state.method


# the virtual step


def test_parameters_move_by_the_clipped_gradient_and_return_to_the_bit() -> None:
    rng = torch.Generator().manual_seed(0)
    first, second, third, fourth = (
        nn.Parameter(torch.randn(5, 3, generator=rng)) for _ in range(4)
    )
    before = [p.detach().clone() for p in (first, second, third, fourth)]
    small, large = torch.full((5, 3), 0.5), torch.full((5, 3), 100.0)
    broken = torch.full((5, 3), float("inf"))
    with virtual_step(
        [first, second, third, fourth], [2 * small, 2 * large, None, broken], 2, 0.1, 10
    ):
        torch.testing.assert_close(first.data, before[0] - 0.1 * small)
        torch.testing.assert_close(second.data, before[1] - 0.1 * large * 10 / large.norm())
        assert torch.equal(third, before[2])
        assert torch.equal(fourth, before[3])
    for parameter, value in zip((first, second, third, fourth), before, strict=True):
        assert torch.equal(parameter, value)


@pytest.mark.parametrize("clip_norm", [0.5, 100.0])
def test_each_gradient_is_clipped_as_by_itself_to_the_bit(clip_norm: float) -> None:
    rng = torch.Generator().manual_seed(1)
    given = [torch.randn(*shape, generator=rng) for shape in ((4, 3, 1), (7,), (1, 1), (6, 5))]
    given[1][2] = float("nan")
    for found, gradient in zip(clipped(given, 4.0, clip_norm), given, strict=True):
        scaled = gradient / 4.0
        norm = torch.linalg.vector_norm(scaled)
        expected = scaled * (clip_norm / norm).clamp(max=1)
        assert torch.equal(found, expected if norm.isfinite() else torch.zeros_like(scaled))


def test_parameters_return_after_an_error_too() -> None:
    weight = nn.Parameter(torch.ones(2))
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        virtual_step([weight], [torch.ones(2)], 1, 0.3, 10),
    ):
        raise RuntimeError("out of memory")
    assert torch.equal(weight, torch.ones(2))


def gradients(state: State, config: Config, pair: list[Crop]) -> list[Tensor]:
    """What a step gives its optimizer, of the network."""
    found: list[Tensor] = []
    (optimizer,) = state.optimizers
    parameters = list(state.method.network.parameters())
    optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in parameters if p.grad is not None)
    )
    take_step(state, config, pair)
    assert len(found) == len(parameters)
    return found


def plain_gradients(config: Config, pair: list[Crop]) -> list[Tensor]:
    """The mean gradient of a pair at one place."""
    config = replace(config, settings=replace(config.settings, inner_lr=0.0), precision="fp32")
    return gradients(build_state(config, CPU, SOURCES), config, pair)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_meta_gradient_is_taken_where_the_virtual_step_has_led(
    precision: str, tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    """First order: g = (g_a(theta) + g_b(theta - rate * clip(g_a))) / 2, with both by hand."""
    settings = {**NO_SHAPE, "inner_lr": 0.05, "clip_norm": 0.5}
    config = tiny_config("tumor_fine", method="saml", settings=settings, precision=precision)
    state = build_state(config, CPU, SOURCES)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=precision == "fp16")
    found = gradients(state, config, pairs[0])

    state = build_state(config, CPU, SOURCES)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=precision == "fp16")
    step, samples = begin_step(state, config, pairs[0])
    held_out = int(torch.randint(2, (), generator=step.generator()))
    meta_train, meta_test = samples[1 - held_out], samples[held_out]
    assert (meta_train.domain, meta_test.domain) == (1 - held_out, held_out)
    parameters = list(state.method.network.parameters())
    scale = step.loss_scale

    def gradient_on(sample: object) -> list[Tensor]:
        step.backward(step.forward(state.method.loss, sample))  # type: ignore[arg-type]
        taken = [p.grad / scale for p in parameters if p.grad is not None]
        for p in parameters:
            p.grad = None
        return taken

    task = gradient_on(meta_train)
    with torch.no_grad():
        for p, g in zip(parameters, task, strict=True):
            p.sub_(0.05 * g * min(1.0, 0.5 / float(g.norm())))
    moved = gradient_on(meta_test)
    clipped = [float(g.norm()) > 0.5 for g in task]
    assert any(clipped)
    assert not all(clipped)
    expected = torch.cat([(a + b).flatten() / 2 for a, b in zip(task, moved, strict=True)])
    error = (torch.cat([g.flatten() for g in found]) - expected).norm() / expected.norm()
    assert error < (1e-5 if precision == "fp32" else 2e-2)
    still = torch.cat([g.flatten() for g in plain_gradients(config, pairs[0])])
    assert (still - expected).norm() / expected.norm() > 0.1  # what no virtual step would give


def test_without_a_virtual_step_and_shapes_a_step_is_the_baselines_to_the_bit(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    neutral = tiny_config("tumor_fine", method="saml", settings={**NO_SHAPE, "inner_lr": 0.0})
    baseline = tiny_config("tumor_fine", method="bl")
    expected = network_after(baseline, pairs[0])
    assert same(network_after(neutral, pairs[0]), expected)
    moved = tiny_config("tumor_fine", method="saml", settings={**NO_SHAPE, "inner_lr": 0.1})
    assert not same(network_after(moved, pairs[0]), expected)
    shaped = tiny_config("tumor_fine", method="saml", settings={"inner_lr": 0.0})
    assert not same(network_after(shaped, pairs[0]), expected)


def test_a_meta_weight_of_zero_leaves_the_meta_train_gradient(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    settings = {**NO_SHAPE, "meta_weight": 0.0}
    config = tiny_config("tumor_fine", method="saml", settings=settings)
    found = gradients(build_state(config, CPU, SOURCES), config, pairs[0])
    state = build_state(config, CPU, SOURCES)
    step, samples = begin_step(state, config, pairs[0])
    held_out = int(torch.randint(2, (), generator=step.generator()))
    step.backward(step.forward(state.method.loss, samples[1 - held_out]), 1 / 2)
    for got, parameter in zip(found, state.method.network.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad)


def test_each_center_is_held_out_in_half_of_the_steps(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_fine", method="saml")
    state = build_state(config, CPU, SOURCES)
    drawn = []
    for number in range(400):
        state.step = number
        step, _ = begin_step(state, config, [])
        drawn.append(int(torch.randint(2, (), generator=step.generator())))
    assert sum(drawn) / 400 == pytest.approx(0.5, abs=0.075)  # three deviations


# the terms of shape


def test_the_mean_at_stride_2_is_that_of_features_repeated_to_stride_1() -> None:
    rng = torch.Generator().manual_seed(3)
    coarse = torch.randn(5, 4, 6, 8, generator=rng)
    region = torch.rand(8, 12, 16, generator=rng) > 0.9
    fine = F.interpolate(coarse[None], scale_factor=2, mode="nearest")[0]
    expected = fine[:, region].mean(dim=1)
    torch.testing.assert_close(masked_means(coarse, region[None])[0], expected)
    torch.testing.assert_close(masked_means(fine, region[None])[0], expected)


def test_the_mean_over_a_region_without_voxels_is_zero_and_stops_no_gradient() -> None:
    rng = torch.Generator().manual_seed(3)
    features = torch.randn(5, 4, 6, 8, generator=rng, requires_grad=True)
    regions = torch.zeros(2, 4, 6, 8, dtype=torch.bool)
    regions[1, 1, 2, 3] = True
    empty, one = masked_means(features, regions)
    assert empty.count_nonzero() == 0
    assert torch.equal(one, features[:, 1, 2, 3])
    (empty + one).sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, regions[1].float().expand_as(features))


def test_a_shape_is_the_normalized_mean_of_both_levels_over_contour_and_ring() -> None:
    rng = torch.Generator().manual_seed(4)
    levels = tuple(
        20 * torch.randn(1, 8, 16 // s, 16 // s, 16 // s, generator=rng) for s in (4, 2, 1)
    )
    mask = torch.zeros(1, 1, 16, 16, 16)
    mask[:, :, 4:9, 5:12, 6:11] = 1
    own = bounding_box(mask[0, 0])
    shapes = pool_shapes(levels, mask, own)  # type: ignore[arg-type]
    assert [shape.kind for shape in shapes] == [CONTOUR, RING]
    assert all(shape.present for shape in shapes)
    regions = contour_and_ring(mask[0, 0] > 0)
    for (_, found, _), region in zip(shapes, regions, strict=True):
        mean = levels[2][0][:, region].mean(dim=1)
        expected = (mean - mean.mean()) / mean.std(unbiased=False)
        torch.testing.assert_close(found[:8], expected, rtol=1e-3, atol=1e-3)
        assert float(found[8:].mean()) == pytest.approx(0, abs=1e-5)
    assert pool_shapes(levels, torch.zeros_like(mask), None) == []  # type: ignore[arg-type]
    full = torch.ones_like(mask)  # has neither a contour nor a ring
    shapes = pool_shapes(levels, full, bounding_box(full[0, 0]))  # type: ignore[arg-type]
    assert not any(shape.present for shape in shapes)


@pytest.mark.parametrize("form", ["slices", "volume"])
def test_compactness_is_that_of_the_box_around_the_target_and_of_its_slices(
    form: str, tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="saml", settings={"compactness": form})
    state = build_state(config, CPU, SOURCES)
    _, (sample, _) = begin_step(state, config, pairs[0])
    mask = torch.zeros(40, 40, 32)
    mask[14, 15:18, 20], mask[17, 12, 13:20] = 1, 1  # two slices between do not hold it
    sample = replace(sample, mask=mask[None, None])
    prob = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = saml(state)._compactness(prob[None, None], sample, bounding_box(mask))
    near = prob[4:28, 2:28, 3:31].detach().double().numpy()  # 10 voxels more on each side
    expected = compactness(near, sample.spacing, form, [10, 13])
    assert float(found) == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert prob.grad is not None
    assert prob.grad[14].count_nonzero() > 0


def compactness(
    near: NDArray[np.float64], spacing: tuple[float, float, float], form: str, held: list[int]
) -> float:
    """The definition, with the default factor of 0.01 of the boundary."""

    def variation(values: NDArray[np.float64], steps: tuple[float, ...]) -> float:
        inside = tuple(slice(0, n - 1) for n in values.shape)
        squares = [(np.diff(values, axis=a)[_cut(inside, a)] / s) ** 2 for a, s in enumerate(steps)]
        return 0.01 * float(np.prod(steps) * np.sqrt(sum(squares) + 1e-8).sum())

    if form == "volume":
        volume = np.prod(spacing) * near.sum() + 1e-6
        return float(variation(near, spacing) ** 3 / (36 * np.pi * volume**2))
    area = [np.prod(spacing[1:]) * near[z].sum() + 1e-6 for z in held]
    lengths = [variation(near[z], spacing[1:]) for z in held]
    return float(np.mean([s**2 / (4 * np.pi * a) for s, a in zip(lengths, area, strict=True)]))


def _cut(inside: tuple[slice, ...], axis: int) -> tuple[slice, ...]:
    return tuple(slice(None) if a == axis else part for a, part in enumerate(inside))


def test_the_shape_terms_reach_the_network_and_the_metric_network(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="saml")
    state = build_state(config, CPU, SOURCES)
    step, (first, second) = begin_step(state, config, pairs[0])
    shapes: list[Shape] = []
    step.forward(partial(saml(state).meta_train_loss, shapes), first)
    assert [shape.kind for shape in shapes] == [CONTOUR, RING]
    assert not any(shape.features.requires_grad for shape in shapes)
    for term, reaches_metric in (("compact", False), ("smooth", True), ("seg", False)):
        for parameter in state.method.parameters():
            parameter.grad = None
        step.forward(partial(saml(state).meta_test_loss, shapes), second)[term].backward()
        assert state.method.auxiliary is not None
        metric = [p.grad is not None for p in state.method.auxiliary.parameters()]
        assert all(metric) if reaches_metric else not any(metric)
        stem = saml(state).network.stem.weight.grad
        assert stem is not None
        assert stem.count_nonzero() > 0
        head = saml(state).network.segmentation_head.weight.grad
        assert (head is None) == (term == "smooth")


@pytest.mark.parametrize("form", ["slices", "volume"])
def test_samples_without_a_target_give_terms_of_zero(
    form: str, tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="saml", settings={"compactness": form})
    state = build_state(config, CPU, SOURCES)
    with_target = take_step(state, config, pairs[0]).values  # type: ignore[attr-defined]
    assert with_target["compact"] > 0
    assert with_target["smooth"] > 0
    empty = [
        Crop(c.image_hu, c.label.clamp(max=1), c.spacing, c.resize_to, c.case_id, c.center, c.index)
        for c in pairs[1]
    ]
    values = take_step(state, config, empty).values  # type: ignore[attr-defined]
    assert values["compact"] == values["smooth"] == 0
    assert values["seg"] > 0


def test_the_metric_network_has_its_own_rate_and_only_trains(
    tiny_config: MakeConfig, pairs: list[list[Crop]]
) -> None:
    config = tiny_config("tumor_fine", method="saml", lr=3e-4)
    state = build_state(config, CPU, SOURCES)
    assert [group["lr"] for group in state.optimizers[0].param_groups] == [3e-4, 1e-3]
    assert state.method.auxiliary is not None
    before = [p.detach().clone() for p in state.method.auxiliary.parameters()]
    take_step(state, config, pairs[0])
    moved = [
        float((p.detach() - old).abs().max())
        for p, old in zip(state.method.auxiliary.parameters(), before, strict=True)
    ]
    assert moved == pytest.approx([1e-3] * 4, rel=0.01)  # Adam's first step
    without = build_method(tiny_config("tumor_fine", method="saml", settings=NO_SHAPE), SOURCES)
    assert without.auxiliary is None


# the whole


def test_a_killed_run_resumes_to_the_same_weights(tiny_config: MakeConfig, tmp_path: Path) -> None:
    settings = {"inner_lr": 0.01}
    whole, resumed = train_with_and_without_a_kill("saml", tiny_config, tmp_path, settings)
    assert_equal_runs(whole, resumed)
    assert all(float(row["compact"]) > 0 for row in read_log(whole))


def test_16_bits_are_near_32(tiny_config: MakeConfig, tmp_path: Path) -> None:
    assert_near_in_16_bits("saml", tiny_config, tmp_path)


def test_it_costs_what_the_baseline_costs() -> None:
    assert cost("saml") == cost("bl") == (18_957_825, "945.23")


def test_one_source_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="method saml needs 2 source centers or more, not 1"):
        build_method(tiny_config("tumor_fine", method="saml"), ("A",))
