"""The paper's method: its terms, its views, Eq. 10 and 11; and the baseline beside it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import nn

from data.dataset import Crop, Sample, load_on_device, make_sample
from engine.step import weighted_sum
from losses.consistency import consistency_loss
from losses.segmentation import segmentation_loss
from methods import METHODS, build_method, make_config
from methods.bl import Baseline
from methods.ours import Ours, mean_over_pairs
from models.backbone import ResidualEncoderDecoder, forward_views
from tests.conftest import SPACING, make_tiny_case
from utils.config import Config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]


def sample_of(config: Config) -> Sample:
    """A whole tiny case, with the targets of the configuration's stage."""
    image_hu, label = (torch.from_numpy(array) for array in make_tiny_case(0))
    crop = Crop(image_hu, label, SPACING, None, "a", "A", 0)
    image, label = load_on_device(crop, torch.device("cpu"))
    return make_sample(image, label, crop, config.stage, build_method(config).targets)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_baseline_is_eq_2_on_the_image_itself(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_coarse", method="bl")
    method, sample = Baseline(config).eval(), sample_of(config)
    terms = method.loss(sample, generator())
    assert set(terms) == {"seg"}
    expected = segmentation_loss([method.network(sample.image).logits], sample.mask)
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
    assert set(method.loss(sample_of(config), generator())) == terms


@pytest.mark.parametrize("left_out", ["seg", "dis", "tran", "con", "cos"])
def test_a_term_of_weight_0_is_not_computed_and_the_others_stay(
    left_out: str, tiny_config: MakeConfig
) -> None:
    whole = Ours(tiny_config("tumor_fine")).eval()
    part = Ours(tiny_config("tumor_fine", settings={"weights": {left_out: 0.0}})).eval()
    part.network, sample = whole.network, sample_of(whole.config)
    all_terms, terms = whole.loss(sample, generator()), part.loss(sample, generator())
    assert set(all_terms) - set(terms) == {left_out}
    assert all(torch.equal(term, all_terms[name]) for name, term in terms.items())


def test_heads_that_no_term_trains_are_not_built(tiny_config: MakeConfig) -> None:
    weights = {"dis": 0.0, "tran": 0.0, "con": 0.0, "cos": 0.0}
    network = Ours(tiny_config("tumor_coarse", settings={"weights": weights})).network
    assert isinstance(network, ResidualEncoderDecoder)
    assert network.distance_head is None
    assert network.projection_head is None
    assert network.slice_head is None


def test_one_view_is_the_image_and_several_differ(tiny_config: MakeConfig) -> None:
    image = sample_of(tiny_config()).image
    single = Ours(tiny_config(settings={"view_count": 1, "weights": {"cos": 0.0}})).make_views(
        image, generator()
    )
    assert len(single) == 1
    assert single[0] is image
    views = Ours(tiny_config(settings={"view_count": 3})).make_views(image, generator())
    assert [view.shape for view in views] == [image.shape] * 3
    assert not any(torch.equal(phi, psi) for phi, psi in combinations(views, 2))


def test_more_than_two_views_train_over_all_pairs(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_fine", settings={"view_count": 3})
    terms = Ours(config).loss(sample_of(config), generator())
    assert set(terms) == {"seg", "dis", "tran", "con", "cos"}
    assert all(term.isfinite() for term in terms.values())
    phi, psi, chi = (torch.full((1, 1, 2, 2, 2), value) for value in (0.0, 1.0, 3.0))
    assert mean_over_pairs(consistency_loss, [phi, psi]) == 1.0
    assert mean_over_pairs(consistency_loss, [phi, psi, chi]) == pytest.approx((1 + 9 + 4) / 3)


def test_consistency_is_eq_10_of_probabilities_and_distance_maps(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_coarse")
    method, sample = Ours(config).eval(), sample_of(config)
    network = method.network
    terms = method.loss(sample, generator(5))
    phi, psi = (network(view) for view in method.make_views(sample.image, generator(5)))
    expected = (torch.sigmoid(phi.logits) - torch.sigmoid(psi.logits)).square().mean()
    expected = expected + (phi.sdm - psi.sdm).square().mean()
    torch.testing.assert_close(terms["cos"], expected, rtol=1e-4, atol=1e-7)


def test_the_released_consistency_is_a_setting(tiny_config: MakeConfig) -> None:
    config = tiny_config("pancreas_coarse", settings={"consistency": "cosine"})
    method, sample = Ours(config).eval(), sample_of(config)
    network = method.network
    terms = method.loss(sample, generator(5))
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
    config = tiny_config(stage, settings={"view_count": 3})
    method, sample = Ours(config), sample_of(config)
    network = method.network.double()  # in float32 they differ by rounding
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
        config = tiny_config("tumor_coarse", settings={"view_count": views})
        method, sample = Ours(config), sample_of(config)
        held = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            terms = method.loss(sample, generator())
        assert all(term.requires_grad for term in terms.values())
        return sum(held.values())

    assert saved_bytes(6) < saved_bytes(2)


@pytest.mark.parametrize(
    ("name", "row", "terms", "views", "parameters"),
    [  # parameters: Table VI's count of one network with these heads
        ("bl", "BL", {"seg"}, None, 18_957_825),
        ("bl_idr", "BL+IDR", {"seg", "dis"}, 1, 18_957_825 + 33),
        ("bl_dtl", "BL+DTL", {"seg", "dis", "tran"}, 1, 18_957_825 + 33),
        ("bl_dsl", "BL+DSL", {"seg", "con", "cos"}, 2, 18_966_049),
        ("ours", "Ours", {"seg", "dis", "tran", "con", "cos"}, 2, 18_999_619),
    ],
)
def test_each_row_of_table_v_is_a_method(
    name: str,
    row: str,
    terms: set[str],
    views: int | None,
    parameters: int,
    tiny_config: MakeConfig,
) -> None:
    assert METHODS[name].table5 == row
    assert set(METHODS[name].terms) == terms
    with torch.device("meta"):
        full = build_method(make_config(TUMOR_FINE, name))
    assert sum(p.numel() for p in full.network.parameters()) == parameters
    assert getattr(full.settings, "view_count", None) == views
    config = tiny_config("tumor_fine", method=name)
    method = build_method(config)
    found = method.loss(sample_of(config), generator())
    assert set(found) == terms
    weighted_sum(found, method.weights).backward()
    for parameter_name, parameter in method.named_parameters():
        assert parameter.grad is not None, parameter_name  # no head without a loss
        assert parameter.grad.any() or parameter.numel() < 2, parameter_name


def test_table_v_has_its_five_rows_and_one_method_is_table_vis_ours() -> None:
    rows = [method.table5 for method in METHODS.values() if method.table5 is not None]
    assert rows == ["BL", "BL+IDR", "BL+DTL", "BL+DSL", "Ours"]
    assert [name for name, m in METHODS.items() if m.table6 == "Ours"] == ["ours"]


def test_a_term_that_a_row_leaves_out_cannot_be_weighed() -> None:
    with pytest.raises(ValueError, match=r"method bl_idr: term 'con' is unknown; choose from seg"):
        build_method(make_config(TUMOR_FINE, "bl_idr", {"weights": {"con": 0.1}}))


def test_consistency_of_a_single_view_is_an_error_and_not_a_missing_term() -> None:
    with pytest.raises(ValueError, match=r"--view-count 1: the term cos compares two views"):
        build_method(make_config(TUMOR_FINE, "ours", {"view_count": 1}))


def test_the_denominator_is_a_setting(tiny_config: MakeConfig) -> None:
    printed = Ours(tiny_config("tumor_fine")).eval()
    sample = sample_of(printed.config)
    before = printed.loss(sample, generator())
    other = Ours(tiny_config("tumor_fine", settings={"denominator": "with_positive"})).eval()
    other.network = printed.network
    after = other.loss(sample, generator())
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"con"}
