"""Passes of a training step: known for a method that says what it runs, counted for the others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from data.dataset import Sample
from engine.passes import Passes, count_passes, counting
from methods import METHODS, Method
from methods.base import Step
from tests._methods import TwoOptimizers


class Thrice(Method):
    """Two views that learn and one that is only looked at."""

    def loss(self, sample: Sample, generator: torch.Generator):  # type: ignore[no-untyped-def]
        first, second = super().loss(sample, generator), super().loss(sample, generator)
        with torch.no_grad():
            self.network(sample.image)
        return {"seg": first["seg"] + second["seg"]}


class Alternating(Method):
    """One pass in odd steps, three in even ones."""

    def training_step(self, samples: Sequence[Sample], step: Step) -> None:
        for _ in range(1 if step.number % 2 else 3):
            step.backward(step.forward(self.loss, samples[0]))
        step.update()


def test_what_learns_and_what_is_only_looked_at_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METHODS, "thrice", Thrice)
    assert count_passes("thrice", few=2) == Passes(forwards=3, backwards=2, steps=2)


def test_a_second_network_of_its_own_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "two", TwoOptimizers)
    # network; network without gradient and critic
    assert count_passes("two", few=2) == Passes(forwards=3, backwards=2, steps=2)


def test_where_steps_differ_it_is_the_mean_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "alternating", Alternating)
    assert count_passes("alternating", few=2, many=6) == Passes(2, 2, steps=6)


@pytest.mark.parametrize(
    ("method", "forwards", "backwards"), [("bl", 1, 1), ("saml", 1, 1), ("dam", 2, 2)]
)
def test_passes_are_those_of_a_sample(method: str, forwards: float, backwards: float) -> None:
    assert count_passes(method, few=2) == Passes(forwards, backwards, steps=2)


def test_a_method_without_the_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="it has no ResidualEncoderDecoder"), counting(nn.ReLU()):
        pass
