"""Semi-hard triplets: a value worked out by hand, the choice of negatives, empty cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from losses.triplet import semi_hard_triplet_loss


def by_definition(embeddings: Tensor, labels: list[int], margin: float) -> float:
    points = embeddings.tolist()
    count = len(points)
    losses = []
    for a in range(count):
        for p in range(count):
            if a == p or labels[a] != labels[p]:
                continue
            d = [sum((x - y) ** 2 for x, y in zip(points[a], q, strict=True)) for q in points]
            others = [d[n] for n in range(count) if labels[n] != labels[a]]
            further = [value for value in others if value > d[p]]
            losses.append(max(d[p] - (min(further) if further else max(others)) + margin, 0))
    return sum(losses) / len(losses)


def test_four_points_on_a_line() -> None:
    """Class 0 at 0 and 2, class 1 at 3 and 7; squared distances, margin 10.

    0 -> 2: 4, the nearest further is 9: 5. 2 -> 0: 4, further is 25: 0. 3 -> 7: 16, none of 9 and
    1 is further, the furthest is 9: 17. 7 -> 3: 16, further is 25: 1.
    """
    points = torch.tensor([[0.0], [2.0], [3.0], [7.0]])
    loss = semi_hard_triplet_loss(points, torch.tensor([0, 0, 1, 1]), 10.0)
    assert loss == (5 + 0 + 17 + 1) / 4


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_definition(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(7, 3, generator=rng)
    labels = [0, 1, 1, 0, 2, 1, 0]
    loss = semi_hard_triplet_loss(points, torch.tensor(labels), 1.0)
    assert float(loss) == pytest.approx(by_definition(points, labels, 1.0), rel=1e-5)


def test_classes_further_apart_than_the_margin_cost_nothing() -> None:
    points = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    assert semi_hard_triplet_loss(points, torch.tensor([0, 0, 1, 1]), 10.0) == 0


def test_the_gradient_pulls_a_class_together() -> None:
    points = torch.tensor([[0.0], [2.0], [3.0], [7.0]], requires_grad=True)
    semi_hard_triplet_loss(points, torch.tensor([0, 0, 1, 1]), 10.0).backward()
    assert points.grad is not None
    assert points.grad[3] > 0  # against it, 7 moves to 3


@pytest.mark.parametrize("labels", [[0, 1], [0, 0], [0], []])
def test_without_a_pair_or_another_class_it_is_zero_in_the_graph(labels: list[int]) -> None:
    points = torch.rand(len(labels), 4, requires_grad=True)
    loss = semi_hard_triplet_loss(points, torch.tensor(labels, dtype=torch.long), 10.0)
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("seed", range(5))
def test_those_that_are_not_present_are_in_no_triplet(seed: int) -> None:
    """The value of the others alone, whatever the absent ones are; their gradient is zero."""
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(8, 3, generator=rng, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 0, 2, 1, 0, 2])
    present = torch.tensor([True, True, False, True, True, True, True, False])
    loss = semi_hard_triplet_loss(points, labels, 1.0, present)
    kept = points.detach()[present]
    expected = by_definition(kept, labels[present].tolist(), 1.0)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert points.grad is not None
    assert points.grad[present].count_nonzero() > 0
    assert points.grad[~present].count_nonzero() == 0


@pytest.mark.parametrize("present", [[True, True, False, False], [False] * 4])
def test_where_a_class_is_not_present_it_is_zero_with_a_finite_gradient(
    present: list[bool],
) -> None:
    points = torch.tensor([[0.0], [2.0], [3.0], [7.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    loss = semi_hard_triplet_loss(points, labels, 10.0, torch.tensor(present))
    loss.backward()
    assert loss == 0
    assert points.grad is not None
    assert points.grad.count_nonzero() == 0  # a NaN would count


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(n, c\) and labels \(n,\), not \(3, 2\)"):
        semi_hard_triplet_loss(torch.zeros(3, 2), torch.zeros(2), 1.0)
