"""The paper's method: its terms, its views, Eq. 10 and 11; and the baseline beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from data.dataset import Crop, Sample, load_on_device, make_sample
from engine.command_line import parse_config
from engine.training import weighted_sum
from losses.consistency import consistency_loss
from losses.segmentation import segmentation_loss
from methods.base import Method
from methods.ours import Ours, forward_views, mean_over_pairs
from models.backbone import ResidualEncoderDecoder
from tests.conftest import SPACING, make_tiny_case
from utils.config import Config
from utils.stages import TUMOR_FINE, with_variant

MakeConfig = Callable[..., Config]


def sample_of(config: Config) -> Sample:
    """A whole tiny case, with the targets of the configuration's stage."""
    image_hu, label = (torch.from_numpy(array) for array in make_tiny_case(0))
    crop = Crop(image_hu, label, SPACING, None, "a", "A", 0)
    return make_sample(*load_on_device(crop, torch.device("cpu")), crop, config.stage)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_baseline_is_eq_2_on_the_image_itself(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_coarse")
    method, sample = Method(config), sample_of(config)
    network = method.build_network().eval()
    terms = method.loss(network, sample, generator())
    assert set(terms) == {"seg"}
    expected = segmentation_loss([network(sample.image).logits], sample.mask)
    assert torch.equal(terms["seg"], expected)


@pytest.mark.parametrize(
    ("stage", "terms"),
    [
        ("pancreas_coarse", {"seg", "con", "cos"}),
        ("pancreas_fine", {"seg", "con"}),
        ("tumor_coarse", {"seg", "dis", "tran", "con", "cos"}),
        ("tumor_fine", {"seg", "dis", "tran", "con", "cos"}),
    ],
)
def test_ours_has_the_terms_of_the_stage(
    stage: str, terms: set[str], tiny_config: MakeConfig
) -> None:
    config = tiny_config(stage)
    method = Ours(config)
    assert set(method.loss(method.build_network(), sample_of(config), generator())) == terms


@pytest.mark.parametrize("left_out", ["seg", "dis", "tran", "con", "cos"])
def test_a_term_of_weight_0_is_not_computed_and_the_others_stay(
    left_out: str, tiny_config: MakeConfig
) -> None:
    weights = {**TUMOR_FINE.weights, left_out: 0.0}
    whole, part = tiny_config("tumor_fine"), tiny_config("tumor_fine", weights=weights)
    network, sample = Ours(whole).build_network().eval(), sample_of(whole)
    all_terms = Ours(whole).loss(network, sample, generator())
    terms = Ours(part).loss(network, sample, generator())
    assert set(all_terms) - set(terms) == {left_out}
    assert all(torch.equal(term, all_terms[name]) for name, term in terms.items())


def test_heads_that_no_term_trains_are_not_built(tiny_config: MakeConfig) -> None:
    weights = {"seg": 1.0, "dis": 0.0, "tran": 0.0, "con": 0.0, "cos": 0.0}
    network = Ours(tiny_config("tumor_coarse", weights=weights)).build_network()
    assert isinstance(network, ResidualEncoderDecoder)
    assert network.distance_head is None
    assert network.projection_head is None
    assert network.slice_head is None


def test_one_view_is_the_image_and_several_differ(tiny_config: MakeConfig) -> None:
    image = sample_of(tiny_config()).image
    single = Ours(tiny_config(views=1)).make_views(image, generator())
    assert len(single) == 1
    assert single[0] is image
    views = Ours(tiny_config(views=3)).make_views(image, generator())
    assert [view.shape for view in views] == [image.shape] * 3
    assert not any(torch.equal(phi, psi) for phi, psi in combinations(views, 2))


def test_more_than_two_views_train_over_all_pairs(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_fine", views=3)
    method = Ours(config)
    terms = method.loss(method.build_network(), sample_of(config), generator())
    assert set(terms) == {"seg", "dis", "tran", "con", "cos"}
    assert all(term.isfinite() for term in terms.values())
    phi, psi, chi = (torch.full((1, 1, 2, 2, 2), value) for value in (0.0, 1.0, 3.0))
    assert mean_over_pairs(consistency_loss, [phi, psi]) == 1.0
    assert mean_over_pairs(consistency_loss, [phi, psi, chi]) == pytest.approx((1 + 9 + 4) / 3)


def test_consistency_is_eq_10_of_probabilities_and_distance_maps(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_coarse")
    method, sample = Ours(config), sample_of(config)
    network = method.build_network().eval()
    terms = method.loss(network, sample, generator(5))
    phi, psi = (network(view) for view in method.make_views(sample.image, generator(5)))
    expected = (torch.sigmoid(phi.logits) - torch.sigmoid(psi.logits)).square().mean()
    expected = expected + (phi.sdm - psi.sdm).square().mean()
    torch.testing.assert_close(terms["cos"], expected, rtol=1e-4, atol=1e-7)


def test_the_released_consistency_is_a_setting(tiny_config: MakeConfig) -> None:
    config = tiny_config("pancreas_coarse", consistency="cosine")
    method, sample = Ours(config), sample_of(config)
    network = method.build_network().eval()
    terms = method.loss(network, sample, generator(5))
    phi, psi = (
        torch.sigmoid(network(view).logits).flatten()
        for view in method.make_views(sample.image, generator(5))
    )
    expected = 1 - nn.functional.cosine_similarity(phi, psi, dim=0)
    torch.testing.assert_close(terms["cos"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("stage", ["tumor_coarse", "tumor_fine"])
def test_views_one_by_one_have_the_loss_and_gradient_of_one_batch(
    stage: str, tiny_config: MakeConfig
) -> None:
    config = tiny_config(stage, views=3)
    method, sample = Ours(config), sample_of(config)
    network = method.build_network().double()  # in float32 they differ by rounding
    views = [view.double() for view in method.make_views(sample.image, generator())]
    assert len(views) == 3
    network.eval()  # dropout differs between a batch and its samples
    batch = network(torch.cat(views))
    for index, own in enumerate(forward_views(network, views)):
        expected = batch.sample(index)
        for name in ("logits", "sdm", "slice_logits", "features"):
            if getattr(expected, name) is None:
                assert getattr(own, name) is None
            else:
                torch.testing.assert_close(getattr(own, name), getattr(expected, name))
    gradients = []
    for outputs in ([batch.sample(index) for index in range(3)], forward_views(network, views)):
        network.zero_grad()
        mean_over_pairs(consistency_loss, [view.logits for view in outputs]).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for own, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-6)  # the loss is float32


def test_the_memory_that_waits_for_the_gradient_does_not_grow_with_the_views(
    tiny_config: MakeConfig,
) -> None:
    def saved_bytes(views: int) -> int:
        """Bytes of distinct tensors that the graph holds between loss and gradient."""
        config = tiny_config("tumor_coarse", views=views)
        method, sample = Ours(config), sample_of(config)
        network, held = method.build_network(), {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            terms = method.loss(network, sample, generator())
        assert all(term.requires_grad for term in terms.values())
        return sum(held.values())

    assert saved_bytes(6) < saved_bytes(2)


@pytest.mark.parametrize(
    ("variant", "terms", "views", "parameters"),
    [  # parameters: Table VI's count of one network with these heads
        ("BL", {"seg"}, 1, 18_957_825),
        ("BL+IDR", {"seg", "dis"}, 1, 18_957_825 + 33),
        ("BL+DTL", {"seg", "dis", "tran"}, 1, 18_957_825 + 33),
        ("BL+DSL", {"seg", "con", "cos"}, 2, 18_966_049),
        ("Ours", {"seg", "dis", "tran", "con", "cos"}, 2, 18_999_619),
    ],
)
def test_the_rows_of_table_v_are_settings_of_one_method(
    variant: str, terms: set[str], views: int, parameters: int, tiny_config: MakeConfig
) -> None:
    stage = with_variant(TUMOR_FINE, variant)
    assert stage.views == views
    full = Ours(Config(stage)).build_network()
    assert sum(p.numel() for p in full.parameters()) == parameters
    config = tiny_config("tumor_fine")
    config = replace(config, stage=with_variant(config.stage, variant))
    method = Ours(config)
    network = method.build_network()
    found = method.loss(network, sample_of(config), generator())
    assert set(found) == terms
    weighted_sum(found, config.stage.weights).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name  # no head without a loss
        assert parameter.grad.any() or parameter.numel() < 2, name


def test_bl_is_eq_2_on_the_image_itself(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_fine")
    config = replace(config, stage=with_variant(config.stage, "BL"))
    method, sample = Ours(config), sample_of(config)
    network = method.build_network().eval()
    expected = segmentation_loss([network(sample.image).logits], sample.mask)
    assert torch.equal(method.loss(network, sample, generator())["seg"], expected)


def test_a_row_of_table_v_has_the_last_word_over_weights_views_and_slices() -> None:
    argv = ["--target", "C", "--variant", "BL", "--weights", "con=0.1", "--views", "3", "--slices"]
    stage = parse_config(TUMOR_FINE, argv).stage
    assert {name for name, weight in stage.weights.items() if weight > 0} == {"seg"}
    assert (stage.variant, stage.views, stage.slices) == ("BL", 1, False)
    ours = parse_config(TUMOR_FINE, ["--target", "C", "--weights", "con=0.1"]).stage
    assert ours.weights["con"] == 0.1
    with pytest.raises(ValueError, match=r"unknown variant 'DTL'; choose from BL, BL\+IDR"):
        with_variant(TUMOR_FINE, "DTL")
