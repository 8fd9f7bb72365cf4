"""DAM: two heads on one network, each for its own view."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from data.prepare.prepared_case import PreparedCase
from data.random_policy import random_policy
from engine.command_line import parse_config
from losses.segmentation import segmentation_loss
from methods import build_method
from methods.dam import DAM
from models.capture import captured
from tests._baseline import (
    BASELINE_COST,
    costs,
    make_crops,
    network_weights,
    sample_of,
    train_steps,
)
from tests._gradients import has_gradient
from tests.conftest import same
from utils.config import Config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]


def make_dam(config: Config) -> DAM:
    torch.manual_seed(0)
    method = build_method(config)
    assert isinstance(method, DAM)
    return method


def second_head(method: DAM) -> nn.Conv3d:
    assert isinstance(method.auxiliary, nn.Conv3d)
    return method.auxiliary


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_the_second_task_it_is_the_baseline_to_the_bit(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:1]
    config = tiny_config(method="dam", settings={"weights": {"strong": 0.0}})
    neutral, values = train_steps(config, crops)
    baseline, expected = train_steps(tiny_config(method="bl"), crops)
    assert neutral.method.auxiliary is None
    assert same(network_weights(neutral), network_weights(baseline))
    assert values == expected


def test_the_primary_task_sees_what_the_baseline_sees(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:1]
    both, (values,) = train_steps(tiny_config(method="dam"), crops)
    baseline, (expected,) = train_steps(tiny_config(method="bl"), crops)
    assert values["seg"] == expected["seg"]
    assert values["total"] == pytest.approx(values["seg"] + values["strong"])
    assert not same(network_weights(both), network_weights(baseline))


@pytest.mark.parametrize("term", ["seg", "strong"])
def test_each_task_trains_the_features_and_its_own_head_alone(
    term: str, tiny_config: MakeConfig
) -> None:
    method = make_dam(tiny_config(method="dam"))
    method.loss(sample_of(method.stage), generator())[term].backward()
    primary, second = method.network.segmentation_head, second_head(method)
    own, other = (primary, second) if term == "seg" else (second, primary)
    assert has_gradient(own)
    assert not has_gradient(other)
    for part in (method.network.stem, method.network.stage4, method.network.decoder1):
        assert has_gradient(part)


def test_without_operations_and_with_equal_heads_both_losses_are_equal(
    tiny_config: MakeConfig,
) -> None:
    method = make_dam(tiny_config(method="dam", settings={"operations": 0})).eval()
    second_head(method).load_state_dict(method.network.segmentation_head.state_dict())
    terms = method.loss(sample_of(method.stage), generator())
    torch.testing.assert_close(terms["strong"], terms["seg"])


def test_the_second_head_learns_the_labels_of_the_hard_view(tiny_config: MakeConfig) -> None:
    """A seed whose policy moves the lesion."""
    method = make_dam(tiny_config(method="dam")).eval()
    sample = sample_of(method.stage)

    def hard(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return random_policy(sample.image, sample.label, sample.spacing, generator(seed))

    seed = next(s for s in range(100) if not torch.equal(hard(s)[1], sample.label))
    image, label = hard(seed)
    head = second_head(method)
    with captured(method.network, head) as calls:
        found = method.loss(sample, generator(seed))["strong"]
    assert torch.equal(calls[method.network].input, image)
    expected = segmentation_loss([calls[head].output], (label == 2).float())
    torch.testing.assert_close(found, expected)


def test_a_prediction_does_not_know_the_second_head(tiny_config: MakeConfig) -> None:
    method = make_dam(tiny_config(method="dam")).eval()
    image = torch.rand(1, 1, 8, 16, 24, generator=generator())
    with torch.no_grad():
        before = method.predict(image)
        nn.init.normal_(second_head(method).weight)
        assert torch.equal(method.predict(image), before)


def test_bf16_and_fp32_agree(tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    crops = make_crops(tiny_prepared)[:2]
    _, full = train_steps(tiny_config(method="dam"), crops)
    _, half = train_steps(tiny_config(method="dam", precision="bf16"), crops)
    for a, b in zip(half, full, strict=True):
        assert a["seg"] == pytest.approx(b["seg"], rel=0.02)
        assert a["strong"] == pytest.approx(b["strong"], rel=0.02)


@pytest.mark.slow
def test_it_costs_what_the_baseline_costs() -> None:
    assert costs("dam") == BASELINE_COST


def test_its_second_head_has_33_parameters() -> None:
    with torch.device("meta"):
        method = build_method(parse_config(TUMOR_FINE, ["--method", "dam"]))
    assert method.auxiliary is not None
    assert sum(p.numel() for p in method.auxiliary.parameters()) == 33


def test_a_setting_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(TUMOR_FINE, ["--method", "dam", "--operations", "-1"])
    assert "--operations -1: at least 0" in capsys.readouterr().err
