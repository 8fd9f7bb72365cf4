"""The contract of every method, and what the paper's own adds to it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from data.augment import AugmentSettings
from data.dataset import Crop, StageDataset
from data.prepare.prepared_case import PreparedCase
from data.views import ViewSettings
from engine.checkpointing import State, build_state
from engine.training import backward
from methods import METHODS, build_method
from methods.base import MethodSettings, override
from utils.config import Config
from utils.stages import STAGES, TUMOR_FINE

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]
every_method = pytest.mark.parametrize("name", list(METHODS))


@pytest.fixture
def crops(tiny_prepared: Prepared) -> list[Crop]:
    """Crops of cases with a tumor, with normal tissue around it."""
    stage = replace(TUMOR_FINE, jitter_voxels=(8, 8), jitter_z_fraction=(0.3, 0.3))
    dataset = StageDataset(tiny_prepared["A"] + tiny_prepared["B"], stage, seed=1)
    return [dataset[index] for index in range(3)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_steps(config: Config, crops: list[Crop]) -> tuple[State, list[dict[str, Tensor]]]:
    """Train two steps as `fit` does; the state, and the terms of each step."""
    method = build_method(config)
    state, steps = build_state(method, config, CPU), []
    state.network.train()
    samples = iter(crops)
    for _ in range(2):
        terms, _ = backward(config, method, state, samples, CPU)
        state.optimizer.step()
        state.optimizer.zero_grad()
        steps.append(terms)
    return state, steps


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# the contract


@every_method
def test_two_steps_give_finite_terms_that_have_a_weight(
    name: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=name)
    _, steps = two_steps(config, crops)
    for terms in steps:
        assert set(terms) - {"total"} <= set(config.stage.weights)
        assert set(terms) > {"total"}
        assert all(term.shape == () and term.isfinite() for term in terms.values())


@every_method
@pytest.mark.parametrize("stage", list(STAGES))
def test_every_trainable_parameter_of_every_stage_gets_a_gradient(
    name: str, stage: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config(stage, method=name, accumulate=3)
    method = build_method(config)
    state = build_state(method, config, CPU)
    state.network.train()
    backward(config, method, state, iter(crops), CPU)
    parameters = [(n, p) for n, p in state.network.named_parameters() if p.requires_grad]
    assert parameters
    for parameter_name, parameter in parameters:
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.count_nonzero() > 0, parameter_name


@every_method
def test_two_steps_change_the_weights(
    name: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=name)
    fresh = build_state(build_method(config), config, CPU)
    state, _ = two_steps(config, crops)
    assert not same_weights(fresh.network, state.network)


@every_method
@pytest.mark.parametrize("stage", list(STAGES))
def test_predict_keeps_the_shape_and_stays_in_0_to_1(
    name: str, stage: str, tiny_config: MakeConfig
) -> None:
    method = build_method(tiny_config(stage, method=name))
    torch.manual_seed(0)
    network = method.build_network().eval()
    image = torch.rand(2, 1, 8, 16, 24, generator=generator())
    with torch.no_grad():
        prob = method.predict(network, image)
        assert torch.equal(prob, method.predict(network, image))
        alone = method.predict(network, image[1:])
    assert prob.shape == image.shape
    assert prob.dtype == torch.float32
    assert 0 <= prob.min() < prob.max() <= 1
    torch.testing.assert_close(alone, prob[1:], atol=1e-5, rtol=0)  # samples do not mix


@every_method
def test_a_state_dict_fits_into_a_new_network(
    name: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=name)
    state, _ = two_steps(config, crops)
    method = build_method(config)
    torch.manual_seed(99)
    network = method.build_network()
    assert not same_weights(network, state.network)
    network.load_state_dict(state.network.state_dict())
    image = torch.rand(1, 1, 8, 16, 24, generator=generator())
    with torch.no_grad():
        ours = method.predict(network.eval(), image)
        assert torch.equal(ours, method.predict(state.network.eval(), image))


@every_method
def test_the_same_seed_gives_the_same_result_and_another_another(
    name: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=name)
    (first, terms), (second, again) = two_steps(config, crops), two_steps(config, crops)
    assert same_weights(first.network, second.network)
    assert terms == again
    other, _ = two_steps(replace(config, seed=config.seed + 1), crops)
    assert not same_weights(first.network, other.network)


@every_method
def test_the_global_random_state_does_not_matter(
    name: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=name)
    torch.manual_seed(1)
    first, _ = two_steps(config, crops)
    torch.manual_seed(2)
    second, _ = two_steps(config, crops)
    assert same_weights(first.network, second.network)


@every_method
def test_the_docstring_names_paper_year_and_row(name: str) -> None:
    text = sys.modules[METHODS[name].__module__].__doc__ or ""
    assert re.search(r"\b(19|20)\d\d\b", text), "the year of the paper"
    assert re.search(r"[A-Z]\w+( and [A-Z]\w+| et al\.),? ", text), "its authors"
    assert "Table VI" in text
    assert inspect.getdoc(METHODS[name])


@every_method
def test_a_method_is_asked_for_by_its_name_and_takes_its_settings(
    name: str, tiny_config: MakeConfig
) -> None:
    config = tiny_config(method=name, settings={"augment.rotation_degrees": 7})
    method = build_method(config)
    assert type(method) is METHODS[name]
    assert method.settings.augment.rotation_degrees == 7.0


def test_an_unknown_method_is_refused_with_the_choices(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"unknown method 'oures'.*ours"):
        build_method(tiny_config(method="oures"))


# settings of methods


@dataclass(frozen=True)
class Deep(MethodSettings):
    views: ViewSettings = ViewSettings()
    size: int = 3
    name: str | None = None


def test_a_setting_is_replaced_by_its_dotted_name_and_the_rest_stays() -> None:
    given = {"size": 5, "views.bias": True, "views.kernel_sizes": [1, 3], "name": "x"}
    settings = override(Deep(), given)
    views = ViewSettings(kernel_sizes=(1, 3), bias=True)
    assert settings == Deep(views=views, size=5, name="x")
    assert override(Deep(), {}) == Deep()


def test_a_whole_number_is_taken_for_a_real_one_but_not_the_reverse() -> None:
    assert override(AugmentSettings(), {"noise_std": 0}).noise_std == 0.0
    with pytest.raises(ValueError, match=r"'size': 2\.5 is not like its default 3"):
        override(Deep(), {"size": 2.5})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sice": 1}, r"unknown setting 'sice'; choose from augment, views, size"),
        ({"views.bios": True}, r"unknown setting 'views\.bios'; choose from kernel_sizes"),
        ({"size.x": 1}, r"'size' is a value"),
        ({"views": 3}, r"setting 'views'"),
        ({"views.bias": "yes"}, r"setting 'views\.bias': 'yes'"),
        ({"size": True}, r"setting 'size': True"),
        ({"views.kernel_sizes": 3}, r"setting 'views\.kernel_sizes'"),
        ({"augment.scale_range": [0.8]}, r"setting 'augment\.scale_range'"),
        ({"views.kernel_sizes": []}, r"setting 'views\.kernel_sizes'"),
        ({"views.kernel_sizes": [3.5]}, r"setting 'views\.kernel_sizes'"),
        ({"augment.scale_range": ["a", "b"]}, r"setting 'augment\.scale_range'"),
        ({"augment.noise_std": float("nan")}, r"setting 'augment\.noise_std'"),
    ],
)
def test_a_wrong_setting_of_a_method_is_refused_by_name(
    given: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        override(Deep(), given)
