"""Cutout: where the hole is, what is in it, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from data.prepare.prepared_case import PreparedCase
from methods import build_method
from methods.cutout import cut_out
from tests._baseline import BASELINE_COST, costs, make_crops, network_weights, train_steps
from tests.conftest import same
from utils.config import Config

MakeConfig = Callable[..., Config]
SHAPE = (1, 1, 8, 20, 12)
STILL = {f"augment.{step}_probability": 0.0 for step in ("rotation", "mirror", "noise")}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(SHAPE, generator=generator(1)) * 0.9 + 0.05


@pytest.mark.parametrize(("center", "sides"), [((4, 9, 6), (4, 10, 6)), ((0, 0, 0), (2, 5, 3))])
def test_a_hole_has_its_full_size_inside_and_an_eighth_of_it_in_a_corner(
    center: tuple[int, int, int],
    sides: tuple[int, int, int],
    image: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = iter(center)
    monkeypatch.setattr("methods.cutout.torch.randint", lambda *_, **__: torch.tensor(next(drawn)))
    before = image.clone()
    holed = cut_out(image, 0.5, 0.99, generator())
    changed = holed != image
    z, y, x = (slice(max(c - n, 0), c + n) for c, n in zip(center, (2, 5, 3), strict=True))
    assert changed[:, :, z, y, x].all()
    assert changed.sum() == sides[0] * sides[1] * sides[2]
    assert (holed[changed] == 0.99).all()
    assert torch.equal(image, before)


def test_an_odd_side_loses_a_voxel(image: torch.Tensor) -> None:
    sizes = {int((cut_out(image, 0.25, 2.0, generator(s)) == 2).sum()) for s in range(60)}
    assert max(sizes) == 2 * 4 * 2  # 2, 5 and 3 voxels


def test_without_a_side_nothing_changes(image: torch.Tensor) -> None:
    assert torch.equal(cut_out(image, 0.0, 0.5, generator()), image)


def test_the_mean_of_what_is_covered_is_that_of_uniform_centers() -> None:
    image, rng = torch.zeros(SHAPE), generator(2)
    covered = [float(cut_out(image, 0.5, 1.0, rng).mean()) for _ in range(3000)]
    expected = 1.0
    for length in SHAPE[2:]:
        half = length // 4
        spans = [min(c + half, length) - max(c - half, 0) for c in range(length)]
        expected *= sum(spans) / length**2
    assert sum(covered) / len(covered) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_the_hole_is_the_last_change_of_the_image_and_the_label_stays(
    fill: str, image: torch.Tensor, tiny_config: MakeConfig
) -> None:
    settings = {**STILL, "fill": fill, "holes": 2}
    method = build_method(tiny_config("tumor_fine", method="cutout", settings=settings))
    label = (image > 0.5).to(torch.uint8)
    for seed in range(5):
        holed, same_label = method.augment(image, label, (2.0, 1.0, 1.0), generator(seed))
        changed = holed != image
        assert 0 < changed.sum() <= 2 * 2 * 4 * 2
        expected = 0.0 if fill == "zero" else float(image.mean())
        assert holed[changed].unique().tolist() == pytest.approx([expected])
        assert torch.equal(same_label, label)


def test_without_a_hole_a_step_is_the_baselines_bit_for_bit(
    tiny_config: MakeConfig, tiny_prepared: dict[str, list[PreparedCase]]
) -> None:
    crops = make_crops(tiny_prepared)[:2]
    bl, expected = train_steps(tiny_config("tumor_fine", method="bl"), crops)
    none = tiny_config("tumor_fine", method="cutout", settings={"side_fraction": 0.0})
    neutral, values = train_steps(none, crops)
    assert values == expected
    assert same(network_weights(neutral), network_weights(bl))
    holed, _ = train_steps(tiny_config("tumor_fine", method="cutout"), crops)
    assert not same(network_weights(holed), network_weights(bl))


def test_it_costs_what_table_vi_prints() -> None:
    assert costs("cutout") == BASELINE_COST
