"""The contract of every method, in every stage that it can train."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from data.dataset import Crop, StageDataset
from data.prepare.prepared_case import PreparedCase
from engine.checkpointing import State, build_state
from methods import METHODS, build_method, config_from_plain, make_config, read_config
from methods.base import Method, MethodSettings, check_weights
from methods.bl import Baseline
from tests._counting import count_once
from tests.conftest import take_step
from utils.config import Config
from utils.settings import to_plain
from utils.stages import STAGES, TUMOR_COARSE, TUMOR_FINE

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]
SOURCES = ("A", "B")
every_method = pytest.mark.parametrize("name", list(METHODS))
every_stage = pytest.mark.parametrize("stage", list(STAGES))


@pytest.fixture
def crops(tiny_prepared: Prepared) -> list[Crop]:
    """Crops of cases with a tumor, with normal tissue around it: one of A, one of B, in turn."""
    stage = replace(TUMOR_FINE, jitter_voxels=(8, 8), jitter_z_fraction=(0.3, 0.3))
    cases = [*tiny_prepared["A"], *tiny_prepared["B"]]
    dataset = StageDataset(cases, stage, 1, "one_per_center", SOURCES)
    return [dataset[index] for index in range(4)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_steps(config: Config, crops: list[Crop]) -> tuple[State, list[dict[str, float]]]:
    """Train two steps as `fit` does; the state, and the logged values of each step."""
    state = build_state(config, CPU, SOURCES)
    values = []
    for pair in (crops[:2], crops[2:]):
        step = take_step(state, config, pair)
        values.append(step.values)  # type: ignore[attr-defined]
    return state, values


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@every_method
@every_stage
def test_two_steps_give_every_term_a_finite_value_and_every_parameter_a_gradient(
    name: str, stage: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    """A gradient in one of the two steps of a training: a memory is read only when it is filled."""
    config = tiny_config(stage, method=name)
    state = build_state(config, CPU, SOURCES)
    trainable = {n: p for n, p in state.method.named_parameters() if p.requires_grad}
    faulty, learned = set(), set()

    def note(parameter_name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        if not parameter.grad.isfinite().all():
            faulty.add(parameter_name)
        if parameter.grad.count_nonzero() > 0:
            learned.add(parameter_name)

    for parameter_name, parameter in trainable.items():
        parameter.register_post_accumulate_grad_hook(partial(note, parameter_name))
    weights = state.method.weights
    assert set(weights) == set(state.method.terms)
    for pair in (crops[:2], crops[2:]):
        values = take_step(state, config, pair, steps=2).values  # type: ignore[attr-defined]
        assert {term for term, weight in weights.items() if weight > 0} <= set(values)
        assert set(values) <= {*weights, "total", "grad_norm"}
        assert all(abs(value) < float("inf") for value in values.values())
    assert not faulty
    assert trainable
    assert learned == set(trainable)


@every_method
def test_two_steps_change_the_weights(
    name: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=name)
    fresh = build_state(config, CPU, SOURCES)
    state, _ = two_steps(config, crops)
    assert not same_weights(fresh.method.network, state.method.network)


@every_method
@every_stage
def test_predict_keeps_the_shape_stays_in_0_to_1_and_needs_no_center(
    name: str, stage: str, tiny_config: MakeConfig
) -> None:
    torch.manual_seed(0)
    method = build_method(tiny_config(stage, method=name), SOURCES).eval()
    method.auxiliary = None  # what only trains is not there where a checkpoint predicts
    image = torch.rand(2, 1, 8, 16, 24, generator=generator())
    with torch.no_grad():
        prob = method.predict(image)
        assert torch.equal(prob, method.predict(image))
        alone = method.predict(image[1:])
    assert prob.shape == image.shape
    assert prob.dtype == torch.float32
    assert 0 <= prob.min() < prob.max() <= 1
    torch.testing.assert_close(alone, prob[1:], atol=1e-5, rtol=0)  # samples do not mix


@every_method
def test_a_state_dict_fits_into_a_new_method(
    name: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=name)
    state, _ = two_steps(config, crops)
    torch.manual_seed(99)
    method = build_method(config, SOURCES)
    assert not same_weights(method, state.method)
    method.load_state_dict(state.method.state_dict())
    image = torch.rand(1, 1, 8, 16, 24, generator=generator())
    with torch.no_grad():
        assert torch.equal(method.eval().predict(image), state.method.eval().predict(image))


@every_method
def test_the_same_seed_gives_the_same_result_and_another_another(
    name: str, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=name)
    torch.manual_seed(1)  # the global random state does not matter
    first, values = two_steps(config, crops)
    torch.manual_seed(2)
    second, again = two_steps(config, crops)
    assert same_weights(first.method, second.method)
    assert values == again
    other, _ = two_steps(replace(config, seed=config.seed + 1), crops)
    assert not same_weights(first.method, other.method)


@every_method
def test_the_docstring_names_paper_year_and_row(name: str) -> None:
    text = sys.modules[METHODS[name].__module__].__doc__ or ""
    assert re.search(r"\b(19|20)\d\d\b", text), "the year of the paper"
    assert re.search(r"[A-Z]\w+( and [A-Z]\w+| et al\.),? ", text), "its authors"
    assert "Table V" in text
    assert inspect.getdoc(METHODS[name])


@every_method
@every_stage
def test_the_settings_of_a_method_come_back_from_json_equal(name: str, stage: str) -> None:
    config = make_config(STAGES[stage], name, {"augment.rotation_degrees": 7})
    assert config.settings.augment.rotation_degrees == 7.0
    back = config_from_plain(to_plain(config))
    assert back == config
    assert type(build_method(back, SOURCES)) is METHODS[name]


def test_a_configuration_is_read_from_a_file(tmp_path: object, tiny_config: MakeConfig) -> None:
    import json
    from pathlib import Path

    path = Path(str(tmp_path)) / "config.json"
    config = tiny_config("tumor_fine", settings={"weights": {"con": 0.5}})
    path.write_text(json.dumps(to_plain(config)), encoding="utf-8")
    assert read_config(path) == config


def test_a_method_that_learns_from_how_centers_differ_refuses_a_single_one(
    tiny_config: MakeConfig,
) -> None:
    class Comparing(Method):
        least_sources = 2

    config = tiny_config("tumor_fine", method="bl")
    with pytest.raises(ValueError, match=r"needs 2 source centers or more, not 1 \(A\)"):
        Comparing(config, ("A",))
    for sources in ((), SOURCES):
        Comparing(config, sources)


def test_an_unknown_method_is_refused_with_the_choices(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"unknown method 'oures'.*bl, .*ours"):
        tiny_config(method="oures")


def test_settings_of_another_method_are_refused(tiny_config: MakeConfig) -> None:
    config = tiny_config("tumor_fine", method="ours")
    with pytest.raises(ValueError, match="bl needs its own settings"):
        build_method(replace(config, method="bl"))


def test_a_setting_that_the_method_lacks_is_refused_with_its_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown setting 'steepness'; choose from augment, wei"):
        make_config(TUMOR_COARSE, "bl", {"steepness": 3.0})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"con": 1.0}, r"method bl: term 'con' is unknown; choose from seg"),
        ({"seg": -1.0}, "a number, 0 or more"),
        ({"seg": "much"}, "a number, 0 or more"),
        ({"seg": float("inf")}, "a number, 0 or more"),
        ({"seg": 0.0}, "at least one above 0"),
    ],
)
def test_a_wrong_weight_is_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_weights("bl", {"seg": 1.0}, weights)


# the baseline


def test_the_baseline_overrides_nothing_and_has_the_network_of_table_vi() -> None:
    own = {name for name in vars(Baseline) if not name.startswith("__")}
    assert own == {"table5", "table6", "table6_note", "takes_second_channel"}
    with torch.device("meta"):
        for stage in STAGES.values():
            config = make_config(stage, "bl", upsample="nearest")
            method = build_method(config)
            counted = count_once(method.network)
            assert counted.parameters == 18_957_825
            assert counted.gmacs == "945.23"


def test_a_target_that_does_not_exist_is_refused_with_the_choices(tiny_config: MakeConfig) -> None:
    class Wrong(Method):
        targets = ("edges",)

    with pytest.raises(ValueError, match=r"target 'edges' is unknown; choose from sdm, slices"):
        Wrong(tiny_config("tumor_fine", method="bl"))


def test_a_target_that_was_not_asked_for_is_an_error_and_not_a_missing_term(
    tiny_config: MakeConfig, crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(Method):
        def loss(self, sample, generator):  # type: ignore[no-untyped-def]
            return {"seg": sample.need("sdm").mean()}

    monkeypatch.setitem(METHODS, "careless", Careless)
    config = tiny_config("tumor_fine", method="careless")
    with pytest.raises(ValueError, match=r"A/a\d: sdm was not prepared; add 'sdm' to the method's"):
        two_steps(config, crops)


def test_every_setting_of_a_method_says_what_it_is() -> None:
    for method in METHODS.values():
        settings = method.default_settings(TUMOR_FINE)
        assert isinstance(settings, MethodSettings)
        assert type(settings) is method.Settings
