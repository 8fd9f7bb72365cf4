"""Features for t-SNE: which voxels, which views, and the numbers behind the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from data.dataset import target_mask
from data.prepare.prepared_case import PreparedCase
from data.targets.anchors import anchor_masks
from data.views import ViewSettings
from engine.inference import Predictor
from methods import build_method
from models.backbone import Outputs, ResidualEncoderDecoder
from reproduce.analysis.embedding import (
    NothingToShowError,
    Points,
    case_points,
    embed,
    join_points,
    layer_features,
    measure_points,
    to_unit_length,
)
from utils.config import Config

MakeConfig = Callable[..., Config]
VIEWS = ViewSettings()


def make_points(lesion: np.ndarray, normal: np.ndarray, turn: float = 0.0) -> Points:
    """Points in the plane from angles (rad) of lesion and normal voxels; psi is turned further."""
    angles = np.concatenate([lesion, normal])
    both = np.concatenate([angles, angles + turn])
    features = np.stack([np.cos(both), np.sin(both)], axis=1).astype(np.float32)
    count = len(angles)
    return Points(
        {"deep": features},
        np.tile(np.arange(count) < len(lesion), 2),
        np.repeat([0, 1], count),
        np.tile(np.arange(count), 2),
        np.full(2 * count, "a"),
    )


def make_model(config: Config, seed: int = 0) -> Predictor:
    torch.manual_seed(seed)
    return Predictor(config, build_method(config).eval(), torch.device("cpu"), "fp32")


class PlaceNetwork(nn.Module):
    """Deep features that tell their cell: (cos, sin) of its flat index over 1000."""

    def __init__(self) -> None:
        super().__init__()
        self.stage4 = nn.Identity()

    def forward(self, image: torch.Tensor) -> Outputs:
        z, y, x = (n // 8 for n in image.shape[2:])
        angle = torch.arange(z * y * x).view(1, 1, z, y, x) / 1000
        self.stage4(torch.cat([angle.cos(), angle.sin()], dim=1))
        return Outputs(image, None, None, None)


def silhouette_by_hand(features: np.ndarray, is_lesion: np.ndarray) -> float:
    """Rousseeuw (1987): mean of (b - a) / max(a, b) over the points."""
    scores = []
    for i, point in enumerate(features):
        distance = np.linalg.norm(features - point, axis=1)
        own = is_lesion == is_lesion[i]
        a = distance[own].sum() / (own.sum() - 1)
        b = distance[~own].mean()
        scores.append((b - a) / max(a, b))
    return float(np.mean(scores))


def test_two_tight_classes_have_silhouette_one_and_stable_views_distance_zero() -> None:
    found = measure_points(make_points(np.zeros(3), np.full(4, np.pi / 2)), "deep")
    assert (found.lesion, found.normal, found.dead) == (6, 8, 0)
    assert found.silhouette == found.silhouette_phi == found.silhouette_psi == pytest.approx(1)
    assert found.view_distance == pytest.approx(0, abs=1e-6)
    assert found.class_distance == pytest.approx(np.sqrt(2))
    assert found.view_over_class == pytest.approx(0, abs=1e-6)


def test_a_view_that_turns_the_features_by_sixty_degrees_is_a_distance_of_one() -> None:
    points = make_points(np.array([0.0, 0.1]), np.array([np.pi, np.pi + 0.1]), turn=np.pi / 3)
    found = measure_points(points, "deep")
    assert found.view_distance == pytest.approx(1, rel=1e-5)
    # A chord of angle t is 2 sin(t / 2); each lesion point with each normal one, views as they are.
    lesion = np.array([0, 0.1, np.pi / 3, np.pi / 3 + 0.1])
    chords = 2 * np.abs(np.sin((lesion[:, None] - lesion[None] - np.pi) / 2))
    assert found.class_distance == pytest.approx(chords.mean(), rel=1e-5)
    assert found.view_over_class == pytest.approx(1 / chords.mean(), rel=1e-5)


def test_the_silhouette_is_that_of_its_definition_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    points = make_points(rng.normal(0, 0.6, 9), rng.normal(1, 0.6, 12), turn=0.3)
    order = rng.permutation(len(points.view))
    mixed = Points(
        {"deep": points.features["deep"][order]},
        *(getattr(points, name)[order] for name in ("is_lesion", "view", "voxel", "case_ids")),
    )
    found, again = measure_points(points, "deep"), measure_points(mixed, "deep")
    features, phi = points.features["deep"], points.view == 0
    expected = silhouette_by_hand(features, points.is_lesion)
    assert found.silhouette == pytest.approx(expected, abs=1e-6)
    expected = silhouette_by_hand(features[phi], points.is_lesion[phi])
    assert found.silhouette_phi == pytest.approx(expected, abs=1e-6)
    for name, value in vars(found).items():
        assert getattr(again, name) == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize(("lesion", "normal"), [(0, 5), (1, 5), (5, 1)])
def test_a_class_with_fewer_than_two_voxels_has_no_silhouette(lesion: int, normal: int) -> None:
    with pytest.raises(NothingToShowError, match="two voxels of lesion and two of normal"):
        measure_points(make_points(np.zeros(lesion), np.ones(normal)), "deep")


def test_rows_get_unit_length_and_a_dead_row_stays_zero_and_is_counted() -> None:
    unit = to_unit_length(np.array([[3, 4], [0, 0], [0, -2]], np.float32))
    np.testing.assert_allclose(unit, np.array([[0.6, 0.8], [0, 0], [0, -1]]))
    points = make_points(np.zeros(2), np.ones(3))
    points.features["deep"][[0, 4]] = 0
    assert measure_points(points, "deep").dead == 2


def test_an_embedding_is_repeatable_and_keeps_far_groups_apart() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.05, (60, 8))
    features[:30, 0] += 1
    places, used = embed(features, seed=3)
    assert places.shape == (60, 2)
    assert used == pytest.approx(59 / 3)  # lowered from 30, as there are 59 neighbors only
    np.testing.assert_array_equal(embed(features, seed=3)[0], places)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    assert ((nearest < 30) == (np.arange(60) < 30)).all()
    assert embed(np.tile(features, (2, 1)), seed=3)[1] == 30


def test_too_few_or_equal_features_are_refused_with_the_reason() -> None:
    with pytest.raises(NothingToShowError, match="t-SNE of 11 points"):
        embed(np.random.default_rng(0).normal(size=(11, 4)), seed=0)
    with pytest.raises(NothingToShowError, match="all features are the same"):
        embed(np.ones((20, 4)), seed=0)


def test_layers_are_stage_four_and_its_projection_and_the_hook_is_gone_afterwards() -> None:
    torch.manual_seed(0)
    network = ResidualEncoderDecoder(width=8).eval()
    image = torch.rand(1, 1, 16, 24, 8)
    layers = layer_features(network, image)
    x = network.stage0(network.stem(image))
    x = network.stage2(network.down2(network.stage1(network.down1(x))))
    deep = network.stage4(network.stage3(network.down3(x)))
    assert network.projection_head is not None
    torch.testing.assert_close(layers["deep"], deep)
    torch.testing.assert_close(layers["projection"], network.projection_head(deep).relu())
    assert layers["deep"].shape == (1, 64, 2, 3, 1)
    assert not network.stage4._forward_hooks
    with pytest.raises(ValueError, match="multiple of 8"):
        layer_features(network, image[..., :5])
    assert not network.stage4._forward_hooks  # nor after an error
    assert set(layer_features(ResidualEncoderDecoder(width=8, projection=False), image)) == {"deep"}
    with pytest.raises(ValueError, match="Identity has no stage4"):
        layer_features(nn.Identity(), image)


def test_points_are_the_anchors_of_the_crop_once_in_each_view(
    tiny_prepared: dict[str, list[PreparedCase]], tiny_config: MakeConfig
) -> None:
    # A margin that takes in the whole volume (24, 32, 40): the crop's cells are the volume's.
    config = tiny_config("tumor_coarse", margin_voxels=(40, 40, 40))
    (item, *_) = tiny_prepared["C"]
    points = case_points(make_model(config), item, 0, views=VIEWS, seed=5, per_case=1000)
    assert points is not None
    assert item.label is not None
    mask = torch.from_numpy(target_mask(item.label, "tumor").copy())[None, None]
    positive, negative = anchor_masks(mask)
    counts = int(positive.sum()), int(negative.sum())
    assert min(counts) > 0
    total = sum(counts)
    np.testing.assert_array_equal(points.is_lesion, np.tile(np.arange(total) < counts[0], 2))
    np.testing.assert_array_equal(points.view, np.repeat([0, 1], total))
    np.testing.assert_array_equal(points.voxel, np.tile(np.arange(total), 2))
    assert {name: f.shape for name, f in points.features.items()} == {
        "deep": (2 * total, 64),
        "projection": (2 * total, 8),
    }
    length = np.linalg.norm(points.features["deep"], axis=1)
    np.testing.assert_allclose(length, 1, rtol=1e-5)
    phi, psi = points.features["deep"][:total], points.features["deep"][total:]
    assert np.abs(phi - psi).max() > 1e-4  # two views, not one twice


def test_features_are_read_at_the_anchors_lesion_first(
    tiny_prepared: dict[str, list[PreparedCase]], tiny_config: MakeConfig
) -> None:
    model = make_model(tiny_config("tumor_coarse", margin_voxels=(40, 40, 40)))
    model.method.network = PlaceNetwork()
    (item, *_) = tiny_prepared["C"]
    points = case_points(model, item, 0, views=VIEWS, seed=5, per_case=1000)
    assert points is not None
    assert item.label is not None
    mask = torch.from_numpy(target_mask(item.label, "tumor").copy())[None, None]
    cells = [np.flatnonzero(found.numpy()) for found in anchor_masks(mask)]
    cosine, sine = points.features["deep"].T
    read = np.rint(1000 * np.arctan2(sine, cosine)).astype(int)
    np.testing.assert_array_equal(read, np.tile(np.concatenate(cells), 2))


def test_every_model_is_asked_about_the_same_voxels_of_the_same_views(
    tiny_prepared: dict[str, list[PreparedCase]], tiny_config: MakeConfig
) -> None:
    (item, *_) = tiny_prepared["C"]
    ours = make_model(tiny_config("tumor_coarse"))
    baseline = make_model(tiny_config("tumor_coarse", method="bl"))
    # The same encoder: what differs then is what the two were shown.
    own, state = baseline.method.network.state_dict(), ours.method.network.state_dict()
    baseline.method.network.load_state_dict({k: v for k, v in state.items() if k in own})
    first, second = (
        case_points(m, item, 0, views=VIEWS, seed=5, per_case=2) for m in (ours, baseline)
    )
    assert first is not None
    assert second is not None
    assert set(second.features) == {"deep"}
    np.testing.assert_array_equal(first.features["deep"], second.features["deep"])
    assert max(first.is_lesion.sum(), (~first.is_lesion).sum()) <= 2 * 2  # two voxels, two views
    other = case_points(ours, item, 0, views=VIEWS, seed=6, per_case=2)
    assert other is not None
    assert not np.array_equal(other.features["deep"], first.features["deep"])
    as_run = ViewSettings(mode="as_run")
    other = case_points(ours, item, 0, views=as_run, seed=5, per_case=2)
    assert other is not None
    assert not np.array_equal(other.features["deep"], first.features["deep"])


def test_a_case_without_a_lesion_or_without_a_label_has_no_points(
    tiny_prepared: dict[str, list[PreparedCase]], tiny_config: MakeConfig
) -> None:
    model = make_model(tiny_config("tumor_coarse"))
    for item in (tiny_prepared["N"][0], replace(tiny_prepared["C"][0], has_label=False)):
        assert case_points(model, item, 0, views=VIEWS, seed=0) is None


def test_voxels_of_joined_cases_do_not_share_their_numbers() -> None:
    first, second = make_points(np.zeros(2), np.ones(3)), make_points(np.zeros(1), np.ones(2))
    joined = join_points([first, second])
    assert joined.voxel.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7]
    assert joined.features["deep"].shape == (16, 2)
    assert joined.is_lesion.sum() == 6
    with pytest.raises(NothingToShowError, match="no case has a lesion"):
        join_points([])
