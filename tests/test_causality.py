"""SNR's causality loss: entropies, and their order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from losses.causality import dual_causality_loss, mean_entropy

SHAPE = (1, 1, 2, 3, 4)


def logits_of(prob: float) -> Tensor:
    """A map of one probability."""
    return torch.full(SHAPE, math.log(prob / (1 - prob)))


def test_the_entropy_is_that_of_a_coin() -> None:
    for prob in (0.5, 0.1, 0.97):
        expected = torch.distributions.Bernoulli(torch.tensor(prob)).entropy()
        torch.testing.assert_close(mean_entropy(logits_of(prob)), expected)
    mixed = torch.cat([logits_of(0.5), torch.full(SHAPE, 1e9)], dim=2)
    assert float(mean_entropy(mixed)) == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize("size", [0.0, 30.0, 1e4, 1e30])
def test_the_entropy_and_its_gradient_are_finite_for_any_logit(size: float) -> None:
    logits = torch.tensor([size, -size]).requires_grad_()
    entropy = mean_entropy(logits)
    entropy.backward()
    assert 0 <= entropy <= math.log(2) + 1e-6
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_gradient_of_the_entropy_is_right() -> None:
    logits = torch.tensor([-1.5, 0.3, 2.0]).requires_grad_()
    mean_entropy(logits).backward()
    p = torch.sigmoid(logits.detach())
    torch.testing.assert_close(logits.grad, -logits.detach() * p * (1 - p) / 3)


def test_features_of_one_certainty_give_ln_2_twice() -> None:
    one = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    assert float(dual_causality_loss(one, one, one)) == pytest.approx(2 * math.log(2))


def test_a_surer_restored_and_a_less_sure_contaminated_feature_lower_it() -> None:
    base = dual_causality_loss(logits_of(0.7), logits_of(0.7), logits_of(0.7))
    surer = dual_causality_loss(logits_of(0.7), logits_of(0.9), logits_of(0.7))
    both = dual_causality_loss(logits_of(0.7), logits_of(0.9), logits_of(0.6))
    wrong = dual_causality_loss(logits_of(0.7), logits_of(0.6), logits_of(0.9))
    assert both < surer < base < wrong


def test_the_printed_formula() -> None:
    h = [float(mean_entropy(logits_of(p))) for p in (0.7, 0.9, 0.6)]
    expected = math.log1p(math.exp(h[1] - h[0])) + math.log1p(math.exp(h[0] - h[2]))
    value = dual_causality_loss(*(logits_of(p) for p in (0.7, 0.9, 0.6)))
    assert float(value) == pytest.approx(expected)


def test_bf16_logits_are_reduced_in_float32() -> None:
    logits = torch.randn(1, 1, 40, 60, 70, generator=torch.Generator().manual_seed(0)).bfloat16()
    entropy = mean_entropy(logits)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy, mean_entropy(logits.double()), rtol=1e-5, atol=0)


def test_logits_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="logits of one shape are needed"):
        dual_causality_loss(logits_of(0.5), logits_of(0.5), logits_of(0.5)[:, :, :1])
