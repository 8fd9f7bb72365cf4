"""RandConv: its views, what they are trained for, and what it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from data.dataset import Sample
from data.prepare.prepared_case import PreparedCase
from data.views import random_views
from losses.segmentation import segmentation_loss
from methods import build_method, make_config
from methods.randconv import RandConv
from models.backbone import ResidualEncoderDecoder
from tests._baseline import (
    BASELINE_COST,
    costs,
    make_crops,
    network_weights,
    sample_of,
    train_steps,
)
from tests._counting import count_once
from tests.conftest import same
from utils.config import Config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]
ONE_PLAIN_VIEW = {
    "view_count": 1,
    "weights": {"js": 0.0},
    "views.mode": "printed",
    "views.mix_range": (0.0, 0.0),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def sample() -> Sample:
    return sample_of(TUMOR_FINE)


def build(config: Config) -> RandConv:
    method = build_method(config)
    assert isinstance(method, RandConv)
    return method


def test_three_views_of_the_clean_image_are_made_each_with_its_own_convolution(
    tiny_config: MakeConfig, sample: Sample
) -> None:
    method = build(tiny_config("tumor_fine", method="randconv"))
    before = sample.image.clone()
    views = method.make_views(sample.image, generator(3))
    expected = random_views(sample.image, generator(3), method.settings.views, count=3)
    assert len(views) == 3
    for view, other in zip(views, expected, strict=True):
        assert torch.equal(view, other)
        assert (view.min(), view.max()) == (0, 1)
        assert not view.requires_grad
    assert not torch.equal(views[0], views[1])
    assert torch.equal(sample.image, before)


def test_chained_views_are_convolutions_of_the_first(
    tiny_config: MakeConfig, sample: Sample
) -> None:
    settings = {"chained": True}
    method = build(tiny_config("tumor_fine", method="randconv", settings=settings))
    views = method.make_views(sample.image, generator(3))
    rng = generator(3)
    first = random_views(sample.image, rng, method.settings.views, count=1)
    later = random_views(first[0], rng, method.settings.views, count=2)
    assert all(torch.equal(a, b) for a, b in zip(views, first + later, strict=True))


def test_a_part_of_the_views_is_the_image_itself(tiny_config: MakeConfig, sample: Sample) -> None:
    settings = {"identity_probability": 0.5}
    method = build(tiny_config("tumor_fine", method="randconv", settings=settings))
    rng, image = generator(4), sample.image[..., :8, :8, :8]
    same_ = [torch.equal(v, image) for _ in range(200) for v in method.make_views(image, rng)]
    assert sum(same_) / len(same_) == pytest.approx(0.5, abs=0.06)


def test_the_first_view_alone_carries_the_segmentation_loss(
    tiny_config: MakeConfig, sample: Sample
) -> None:
    method = build(tiny_config("tumor_fine", method="randconv")).eval()
    terms = method.loss(sample, generator(5))
    first = method.make_views(sample.image, generator(5))[0]
    expected = segmentation_loss([method.network(first).logits], sample.mask)
    torch.testing.assert_close(terms["seg"], expected)
    assert 0 < terms["js"] < torch.log(torch.tensor(2.0))


def test_each_term_reaches_the_network_and_without_agreement_one_view_is_made(
    tiny_config: MakeConfig, sample: Sample
) -> None:
    method = build(tiny_config("tumor_fine", method="randconv"))
    stem = method.network.get_parameter("stem.weight")
    (gradient,) = torch.autograd.grad(method.loss(sample, generator())["js"], [stem])
    assert gradient.count_nonzero() > 0
    off = {"weights": {"js": 0.0}}
    alone = build(tiny_config("tumor_fine", method="randconv", settings=off))
    assert len(alone.make_views(sample.image, generator())) == 1
    assert set(alone.loss(sample, generator())) == {"seg"}


def test_a_single_view_that_should_agree_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--view-count 1: the term js .* --weights js=0"):
        build_method(make_config(TUMOR_FINE, "randconv", {"view_count": 1}))


def test_without_mixing_a_step_is_the_baselines_bit_for_bit(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:2]
    bl, expected = train_steps(tiny_config("tumor_fine", method="bl"), crops)
    plain = tiny_config("tumor_fine", method="randconv", settings=ONE_PLAIN_VIEW)
    neutral, values = train_steps(plain, crops)
    assert values == expected
    assert same(network_weights(neutral), network_weights(bl))
    mixed, _ = train_steps(tiny_config("tumor_fine", method="randconv"), crops[:1])
    assert not same(network_weights(mixed), network_weights(bl))


def test_bf16_and_fp32_agree(tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    crops = make_crops(tiny_prepared)[:1]
    (full,), (half,) = (
        train_steps(tiny_config("tumor_fine", method="randconv", precision=precision), crops)[1]
        for precision in ("fp32", "bf16")
    )
    assert half["seg"] == pytest.approx(full["seg"], rel=0.02)
    assert half["js"] == pytest.approx(full["js"], rel=0.05)


def test_it_costs_the_baseline_and_table_vi_counts_two_heads_of_ours() -> None:
    assert costs("randconv") == BASELINE_COST
    with torch.device("meta"):
        counted = count_once(ResidualEncoderDecoder(slices=False, upsample="nearest"))
    assert counted.gmacs == "945.41"
