"""GIN: two views through random networks, and what they are trained for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from data.prepare.prepared_case import PreparedCase
from losses.consistency import jensen_shannon_loss
from losses.segmentation import dice_bce_loss
from methods import build_method
from methods.gin import Gin
from tests._baseline import (
    BASELINE_COST,
    costs,
    make_crops,
    network_weights,
    sample_of,
    train_steps,
)
from tests.conftest import same
from utils.config import Config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]
ALONE = {"weights": {"js": 0.0}}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: Config) -> Gin:
    method = build_method(config)
    assert isinstance(method, Gin)
    return method


def test_two_views_carry_the_mean_loss_and_are_to_agree(tiny_config: MakeConfig) -> None:
    method, sample = build(tiny_config("tumor_fine", method="gin")).eval(), sample_of(TUMOR_FINE)
    terms = method.loss(sample, generator(3))
    views = method.make_views(sample.image, generator(3))
    assert len(views) == 2
    assert not torch.equal(views[0], views[1])
    logits = [method.network(view).logits for view in views]
    mean = (dice_bce_loss(logits[0], sample.mask) + dice_bce_loss(logits[1], sample.mask)) / 2
    torch.testing.assert_close(terms["seg"], mean)
    torch.testing.assert_close(terms["js"], jensen_shannon_loss(logits), rtol=1e-3, atol=1e-6)
    stem = method.network.get_parameter("stem.weight")
    (gradient,) = torch.autograd.grad(terms["js"], [stem])
    assert gradient.count_nonzero() > 0


def test_without_agreement_a_single_view_is_made(tiny_config: MakeConfig) -> None:
    method = build(tiny_config("tumor_fine", method="gin", settings=ALONE))
    sample = sample_of(TUMOR_FINE)
    assert len(method.make_views(sample.image, generator())) == 1
    assert set(method.loss(sample, generator())) == {"seg"}


def test_without_mixing_a_step_is_the_baselines_bit_for_bit(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:2]
    bl, expected = train_steps(tiny_config("tumor_fine", method="bl"), crops)
    none = {**ALONE, "network.mix_range": (0.0, 0.0)}
    neutral, values = train_steps(tiny_config("tumor_fine", method="gin", settings=none), crops)
    assert values == expected
    assert same(network_weights(neutral), network_weights(bl))
    mixed, _ = train_steps(tiny_config("tumor_fine", method="gin", settings=ALONE), crops[:1])
    assert not same(network_weights(mixed), network_weights(bl))


def test_bf16_and_fp32_agree(tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    crops = make_crops(tiny_prepared)[:1]
    (full,), (half,) = (
        train_steps(tiny_config("tumor_fine", method="gin", precision=precision), crops)[1]
        for precision in ("fp32", "bf16")
    )
    assert half["seg"] == pytest.approx(full["seg"], rel=0.02)
    assert half["js"] == pytest.approx(full["js"], rel=0.05)


def test_prediction_is_the_baselines_and_it_stands_for_no_printed_row() -> None:
    assert costs("gin") == BASELINE_COST
    assert Gin.table6 is None
