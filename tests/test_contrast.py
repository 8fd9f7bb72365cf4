"""Eq. 8-9: InfoNCE over pairs of one class, against the other class."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from losses.contrast import contrast_loss, info_nce_loss

SHAPE = (1, 6, 2, 3, 4)  # (b, c, z, y, x)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(p * q for p, q in zip(a, b, strict=True))
    return dot / math.sqrt(sum(p * p for p in a)) / math.sqrt(sum(q * q for q in b))


def double_loop(anchors: Tensor, classes: Tensor, tau: float, with_positive: bool) -> float:
    """Eq. 8-9 read off the page, one pair at a time, in Python's floats."""
    f, c = anchors.double().tolist(), classes.tolist()
    n = len(f)
    total, pairs = 0.0, 0
    for i in range(n):
        for j in range(i + 1, n):
            if c[i] != c[j]:
                continue
            pairs += 1
            positive = math.exp(cosine(f[i], f[j]) / tau)
            below = sum(math.exp(cosine(f[i], f[k]) / tau) for k in range(n) if c[k] != c[i])
            total -= math.log(positive / (below + (positive if with_positive else 0.0)))
    return total / (2 * pairs)


def some_anchors(seed: int, n: int = 12, c: int = 5) -> Tensor:
    return torch.randn((n, c), generator=torch.Generator().manual_seed(seed))


def some_features(seed: int, views: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(views)]


def candidates(count_positive: int, count_negative: int) -> tuple[Tensor, Tensor]:
    positive = torch.zeros(24, dtype=torch.bool)
    positive[:count_positive] = True
    negative = torch.zeros(24, dtype=torch.bool)
    negative[24 - count_negative :] = True
    shape = (1, 1, *SHAPE[2:])
    return positive.reshape(shape), negative.reshape(shape)


@pytest.mark.parametrize("tau", [0.05, 0.5])
@pytest.mark.parametrize("denominator", ["negatives", "with_positive"])
@pytest.mark.parametrize("seed", [0, 1])
def test_eq_8_and_9_equal_a_slow_double_loop(tau: float, denominator: str, seed: int) -> None:
    anchors = some_anchors(seed)
    for classes in (torch.arange(12) < 6, torch.arange(12) % 2 == 0, torch.arange(12) < 3):
        expected = double_loop(anchors, classes, tau, denominator == "with_positive")
        loss = info_nce_loss(anchors, classes, tau, denominator=denominator)
        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert loss.dtype == torch.float32


def usual_nt_xent(anchors: Tensor, classes: Tensor, tau: float) -> Tensor:
    """NT-Xent as SimCLR and its followers define it, by PyTorch's cross-entropy.

    Mean over all ordered pairs (i, j) of one class of -log softmax of the pair among itself and
    i's similarities to the other class.
    """
    unit = torch.nn.functional.normalize(anchors.double(), dim=1)
    similarity = unit @ unit.T / tau
    rows = [
        torch.cat([similarity[i, j].view(1), similarity[i, classes != classes[i]]])
        for i in range(len(classes))
        for j in range(len(classes))
        if i != j and classes[i] == classes[j]
    ]
    losses = [torch.nn.functional.cross_entropy(row, torch.tensor(0)) for row in rows]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("views", [1, 2, 3])
def test_weight_0_1_of_the_usual_loss_is_0_2_of_the_one_with_the_positive(views: int) -> None:
    # Eq. 8 divides by 2 N_C where the usual loss takes the mean over pairs: half of it.
    features = [view.requires_grad_() for view in some_features(14, views)]
    positive, negative = candidates(4, 4)
    ours = 0.2 * contrast_loss(features, positive, negative, denominator="with_positive")
    columns = [view[0].flatten(1).T for view in features]  # (24, c)
    anchors = torch.cat([torch.cat([c[:4], c[20:]]) for c in columns])
    classes = torch.tensor(([1] * 4 + [0] * 4) * views)
    scripts = 0.1 * usual_nt_xent(anchors, classes, 0.05)
    assert ours.item() == pytest.approx(scripts.item(), rel=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, features), torch.autograd.grad(scripts, features), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)


def test_two_orthogonal_classes_have_the_value_worked_out_by_hand() -> None:
    # Cosine 1 within a class, 0 across; 2 of each: -log(e^20 / 2) = ln 2 - 20 for both pairs.
    anchors = torch.tensor([[3.0, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, 8.0]])
    classes = torch.tensor([1, 1, 0, 0])
    printed = info_nce_loss(anchors, classes, 0.05)
    assert printed.item() == pytest.approx((math.log(2) - 20) / 2, rel=1e-6)
    usual = info_nce_loss(anchors, classes, 0.05, denominator="with_positive")
    assert usual.item() == pytest.approx(math.log1p(2 * math.exp(-20)) / 2, abs=1e-6)


def test_the_printed_loss_is_bounded_below_by_the_cosine() -> None:
    anchors = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    loss = info_nce_loss(anchors, torch.tensor([1, 1, 0, 0]), 0.05)
    assert loss.item() == pytest.approx((math.log(2) - 40) / 2, rel=1e-6)


def test_scaling_a_feature_changes_nothing() -> None:
    anchors, classes = some_anchors(2), torch.arange(12) < 6
    scaled = anchors * torch.linspace(0.01, 100, 12)[:, None]
    expected = info_nce_loss(anchors, classes).item()
    assert info_nce_loss(scaled, classes).item() == pytest.approx(expected, rel=1e-4)


def test_one_class_or_no_pair_costs_zero_and_stays_in_the_graph() -> None:
    for n, classes in ((4, [1, 1, 1, 1]), (2, [1, 0]), (1, [1]), (0, [])):
        anchors = torch.ones((n, 3), requires_grad=True)
        loss = info_nce_loss(anchors, torch.tensor(classes, dtype=torch.int64))
        assert loss.item() == 0.0
        (grad,) = torch.autograd.grad(loss, anchors)
        assert bool((grad == 0).all())


def test_a_zero_feature_is_similar_to_nothing_and_harmless() -> None:
    anchors = some_anchors(3)
    anchors[[0, 7]] = 0
    anchors.requires_grad_()
    loss = info_nce_loss(anchors, torch.arange(12) < 6)
    (grad,) = torch.autograd.grad(loss, anchors)
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(grad).all())
    assert bool((grad[[0, 7]] == 0).all())


def test_descent_gathers_a_class_and_parts_it_from_the_other() -> None:
    anchors, classes = some_anchors(4).requires_grad_(), torch.arange(12) < 6
    optimizer = torch.optim.SGD([anchors], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        info_nce_loss(anchors, classes).backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(anchors.detach(), dim=1)
    similarity = unit @ unit.T
    assert similarity[:6, :6].min() > 0.9
    assert similarity[:6, 6:].max() < 0.0


def test_autocast_does_not_coarsen_the_similarities() -> None:
    anchors, classes = some_anchors(5), torch.arange(12) < 6
    expected = info_nce_loss(anchors, classes).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert info_nce_loss(anchors, classes).item() == expected


def test_contrast_reads_the_same_voxels_of_every_view() -> None:
    phi, psi = some_features(6)
    positive, negative = candidates(3, 3)
    columns = [view[0].flatten(1).T for view in (phi, psi)]  # (24, c)
    anchors = torch.cat([columns[0][:3], columns[0][21:], columns[1][:3], columns[1][21:]])
    classes = torch.tensor([1, 1, 1, 0, 0, 0] * 2)
    orders = [(anchors, classes), (anchors.flip(0), classes.flip(0))]
    expected = sum(double_loop(a, c, 0.05, False) for a, c in orders) / 2
    loss = contrast_loss([phi, psi], positive, negative)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("denominator", ["negatives", "with_positive"])
def test_both_orders_at_once_are_the_mean_of_each_within_1e_6(denominator: str) -> None:
    anchors, classes = some_anchors(15).requires_grad_(), torch.arange(12) % 3 == 0
    each = [
        info_nce_loss(a, c, 0.5, denominator=denominator)
        for a, c in ((anchors, classes), (anchors.flip(0), classes.flip(0)))
    ]
    both = info_nce_loss(anchors, classes, 0.5, denominator=denominator, both_orders=True)
    mean = (each[0] + each[1]) / 2
    assert both.item() == pytest.approx(mean.item(), rel=1e-6)
    grads = [torch.autograd.grad(loss, anchors)[0] for loss in (both, mean)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("views", [2, 3])
def test_contrast_does_not_know_which_view_is_first(views: int) -> None:
    features = some_features(7, views)
    positive, negative = candidates(9, 4)
    losses = [
        contrast_loss(
            order, positive, negative, generator=torch.Generator().manual_seed(0), max_anchors=3
        )
        for order in (features, features[::-1])
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)


def touched(features: list[Tensor], loss: Tensor) -> list[Tensor]:
    """The voxels of each view that received a gradient."""
    grads = torch.autograd.grad(loss, features)
    return [torch.nonzero(g[0].abs().sum(dim=0).flatten()).flatten() for g in grads]


def test_b_is_the_smaller_count_and_at_most_the_cap() -> None:
    counts = ((9, 4, 50, 4), (2, 9, 50, 2), (9, 9, 5, 5), (9, 9, 1, 1))
    for count_positive, count_negative, cap, size in counts:
        features = [view.requires_grad_() for view in some_features(8)]
        positive, negative = candidates(count_positive, count_negative)
        loss = contrast_loss(
            features,
            positive,
            negative,
            generator=torch.Generator().manual_seed(1),
            max_anchors=cap,
        )
        for voxels in touched(features, loss):
            assert int(positive.flatten()[voxels].sum()) == size
            assert int(negative.flatten()[voxels].sum()) == size
            assert len(voxels) == 2 * size


def test_one_voxel_of_each_class_is_enough_for_two_views() -> None:
    features = [view.requires_grad_() for view in some_features(9)]
    loss = contrast_loss(features, *candidates(1, 1))
    assert bool(torch.isfinite(loss))
    assert [v.tolist() for v in touched(features, loss)] == [[0, 23], [0, 23]]


def test_without_a_generator_the_voxels_are_evenly_spaced() -> None:
    features = [view.requires_grad_() for view in some_features(10)]
    loss = contrast_loss(features, *candidates(12, 3))
    for voxels in touched(features, loss):
        assert voxels.tolist() == [0, 4, 8, 21, 22, 23]


def test_the_same_generator_state_gives_the_same_loss_and_another_another() -> None:
    features, (positive, negative) = some_features(11), candidates(12, 12)
    losses = [
        contrast_loss(
            features,
            positive,
            negative,
            generator=torch.Generator().manual_seed(seed),
            max_anchors=4,
        ).item()
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0)])
def test_no_tumor_in_the_crop_costs_zero_and_stays_in_the_graph(counts: tuple[int, int]) -> None:
    features = [view.half().requires_grad_() for view in some_features(12)]
    loss = contrast_loss(features, *candidates(*counts))
    assert loss.item() == 0.0
    assert loss.dtype == torch.float32
    loss.backward()
    for view in features:
        assert view.grad is not None
        assert bool((view.grad == 0).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
def test_four_million_half_precision_values_stay_finite(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [
        (torch.randn((1, 32, 20, 80, 80), generator=generator) * scale).to(dtype).requires_grad_()
        for _ in range(2)
    ]
    positive = torch.zeros((1, 1, 20, 80, 80), dtype=torch.bool)
    positive[:, :, 5:10] = True
    loss = contrast_loss(features, positive, ~positive)
    loss.backward()
    assert bool(torch.isfinite(loss))
    for view in features:
        assert view.grad is not None
        assert bool(torch.isfinite(view.grad).all())
        assert bool((view.grad != 0).any()) == (scale > 0)


def test_wrong_shapes_and_settings_are_refused() -> None:
    features, (positive, negative) = some_features(13), candidates(3, 3)
    with pytest.raises(ValueError, match="need candidates of shape"):
        contrast_loss(features, positive[:, 0], negative)
    with pytest.raises(ValueError, match="at least one view"):
        contrast_loss([], positive, negative)
    with pytest.raises(ValueError, match="max_anchors must be at least 1"):
        contrast_loss(features, positive, negative, max_anchors=0)
    with pytest.raises(ValueError, match="choose from negatives, with_positive"):
        info_nce_loss(torch.ones((2, 3)), torch.ones(2), denominator="all")
    with pytest.raises(ValueError, match=r"classes \(n,\)"):
        info_nce_loss(torch.ones((2, 3)), torch.ones(3))
    with pytest.raises(ValueError, match="temperature must be positive"):
        info_nce_loss(torch.ones((2, 3)), torch.ones(2), 0.0)
