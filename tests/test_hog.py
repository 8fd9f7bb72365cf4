"""HOG: what its head trains, that it is nowhere else, and what it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from data.prepare.prepared_case import PreparedCase
from data.targets.hog import hog_target
from engine.command_line import parse_config
from methods import build_method, make_config
from methods.hog import HOG
from models.capture import captured
from tests._baseline import (
    BASELINE_COST,
    costs,
    make_crops,
    network_weights,
    sample_of,
    train_steps,
)
from tests._counting import count_once
from tests._gradients import has_gradient
from tests.conftest import same
from utils.config import Config
from utils.stages import TUMOR_FINE

MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]


def make_hog(config: Config) -> HOG:
    torch.manual_seed(0)
    method = build_method(config)
    assert isinstance(method, HOG)
    return method


def test_without_the_term_it_is_the_baseline_to_the_bit(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:1]
    config = tiny_config(method="hog", settings={"weights": {"hog": 0.0}})
    neutral, values = train_steps(config, crops)
    baseline, expected = train_steps(tiny_config(method="bl"), crops)
    assert neutral.method.auxiliary is None
    assert same(network_weights(neutral), network_weights(baseline))
    assert values == expected
    with_head, _ = train_steps(tiny_config(method="hog"), crops)
    assert not same(network_weights(with_head), network_weights(baseline))


def test_the_first_step_sees_the_baselines_network_and_image(
    tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    crops = make_crops(tiny_prepared)[:1]
    _, (values,) = train_steps(tiny_config(method="hog"), crops)
    _, (expected,) = train_steps(tiny_config(method="bl"), crops)
    assert values["seg"] == expected["seg"]
    assert values["total"] == pytest.approx(values["seg"] + values["hog"])
    assert 0.01 < values["hog"] < 5  # neither vanishes beside the other


def test_its_loss_trains_head_and_all_that_makes_the_features_and_not_the_mask(
    tiny_config: MakeConfig,
) -> None:
    method = make_hog(tiny_config(method="hog"))
    method.loss(sample_of(method.stage), torch.Generator())["hog"].backward()
    network = method.network
    assert method.auxiliary is not None
    for part in (network.stem, network.stage4, network.decoder1, *method.auxiliary.children()):
        assert has_gradient(part)
    assert not has_gradient(network.segmentation_head)


def test_eq_2_does_not_reach_the_head(tiny_config: MakeConfig) -> None:
    method = make_hog(tiny_config(method="hog"))
    method.loss(sample_of(method.stage), torch.Generator())["seg"].backward()
    assert method.auxiliary is not None
    assert not has_gradient(method.auxiliary)


def test_the_descriptor_is_that_of_the_image_that_the_network_sees(
    tiny_config: MakeConfig,
) -> None:
    method = make_hog(tiny_config(method="hog", settings={"rim": 0}))
    sample = sample_of(method.stage)
    assert method.auxiliary is not None
    with captured(method.network, method.auxiliary) as calls:
        found = method.loss(sample, torch.Generator())["hog"]
    assert calls[method.network].input is sample.image
    pred: Tensor = calls[method.auxiliary].output
    torch.testing.assert_close(found, (pred - hog_target(sample.image)).square().mean())


@pytest.mark.slow
def test_the_descriptor_is_learned(tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    config = tiny_config(method="hog", lr=3e-3, settings={"weights": {"seg": 0.0}})
    _, values = train_steps(config, make_crops(tiny_prepared)[:2] * 5)
    errors = [value["hog"] for value in values]
    assert sum(errors[-3:]) < 0.8 * sum(errors[:3])


def test_bf16_and_fp32_agree(tiny_config: MakeConfig, tiny_prepared: Prepared) -> None:
    crops = make_crops(tiny_prepared)[:2]
    _, full = train_steps(tiny_config(method="hog"), crops)
    _, half = train_steps(tiny_config(method="hog", precision="bf16"), crops)
    for a, b in zip(half, full, strict=True):
        assert a["seg"] == pytest.approx(b["seg"], rel=0.02)
        assert a["hog"] == pytest.approx(b["hog"], rel=0.02)


class WithHead(nn.Module):
    """What a training runs, for the count."""

    def __init__(self, method: HOG) -> None:
        super().__init__()
        self.network, self.head = method.network, method.auxiliary

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        assert self.head is not None
        with captured(self.network.decoder1) as calls:
            logits = self.network(image).logits
        return logits, self.head(calls[self.network.decoder1].output)


@pytest.mark.slow
def test_it_costs_what_the_baseline_costs_and_table_vi_counts_its_head() -> None:
    assert costs("hog") == BASELINE_COST
    with torch.device("meta"):
        method = make_hog(make_config(TUMOR_FINE, "hog", upsample="nearest"))
        counted = count_once(WithHead(method))
    assert (counted.parameters, counted.gmacs) == (18_957_825 + 4_738, "962.85")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell-voxels", "16"], "--cell-voxels 16: at most 8"),
        (["--orientations", "1"], "--orientations 1: at least 2"),
        (["--rim", "-1"], "--rim -1: at least 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_config(TUMOR_FINE, ["--method", "hog", *options])
    assert message in capsys.readouterr().err
