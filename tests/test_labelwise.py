"""Label-wise random convolution: each label has its own view, and no voxel another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from data.prepare.prepared_case import PreparedCase
from data.views import ViewSettings, label_wise_view, random_views
from methods import build_method
from methods.labelwise import LabelWise
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
MODES = [ViewSettings(), ViewSettings(mode="rescaled"), ViewSettings(kernel_sizes=(7,))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("settings", MODES)
def test_inside_each_label_the_image_is_that_labels_view(settings: ViewSettings) -> None:
    sample = sample_of(TUMOR_FINE)
    before, before_label = sample.image.clone(), sample.label.clone()
    found = label_wise_view(sample.image, sample.label, generator(2), settings)
    views = random_views(sample.image, generator(2), settings, count=3)
    for value, view in enumerate(views):
        inside = sample.label == value
        assert inside.any()
        assert torch.equal(found[inside], view[inside])
        others = [other for other in views if other is not view]
        assert all(not torch.equal(found[inside], other[inside]) for other in others)
    assert not found.requires_grad
    assert torch.equal(sample.image, before)
    assert torch.equal(sample.label, before_label)


def test_what_is_drawn_does_not_depend_on_the_labels_that_are_there() -> None:
    sample, none, some = sample_of(TUMOR_FINE), generator(3), generator(3)
    empty = torch.zeros_like(sample.label)
    view = label_wise_view(sample.image, empty, none, ViewSettings())
    label_wise_view(sample.image, sample.label, some, ViewSettings())
    assert torch.equal(view, random_views(sample.image, generator(3), count=1)[0])
    assert torch.equal(none.get_state(), some.get_state())


def test_it_comes_after_the_baselines_augmentation_and_leaves_the_label(
    tiny_config: MakeConfig,
) -> None:
    method = build_method(tiny_config("tumor_fine", method="labelwise"))
    baseline = build_method(tiny_config("tumor_fine", method="bl"))
    sample = sample_of(TUMOR_FINE)
    rng = generator(4)
    image, label = baseline.augment(sample.image, sample.label, sample.spacing, rng)
    expected = label_wise_view(image, label, rng, ViewSettings(mode="rescaled"))
    found, found_label = method.augment(sample.image, sample.label, sample.spacing, generator(4))
    assert torch.equal(found, expected)
    assert torch.equal(found_label, label)


def test_without_mixing_a_step_is_the_baselines_bit_for_bit(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:2]
    bl, expected = train_steps(tiny_config("tumor_fine", method="bl"), crops)
    none = {"views.mode": "printed", "views.mix_range": (0.0, 0.0)}
    config = tiny_config("tumor_fine", method="labelwise", settings=none)
    neutral, values = train_steps(config, crops)
    assert values == expected
    assert same(network_weights(neutral), network_weights(bl))
    mixed, _ = train_steps(tiny_config("tumor_fine", method="labelwise"), crops[:1])
    assert not same(network_weights(mixed), network_weights(bl))


def test_prediction_is_the_baselines_and_it_stands_for_no_printed_row() -> None:
    assert costs("labelwise") == BASELINE_COST
    assert LabelWise.table6 is None
