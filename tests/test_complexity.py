"""Table VI: parameters and multiply-accumulates."""

import csv
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.bench_complexity import ROWS, TABLE6, Row, main
from models.backbone import ResidualEncoderDecoder
from models.complexity import count_complexity
from tests._counting import count_once, structure


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.heads)
def test_parameters_and_multiply_accumulates_are_those_of_table_vi(row: Row) -> None:
    with torch.device("meta"):
        network = ResidualEncoderDecoder(upsample="nearest", **row.settings)
    found = count_once(network)
    assert (found.parameters, found.gmacs) == (row.parameters, row.gmacs)


def test_the_expected_figures_are_the_published_ones() -> None:
    assert [(row.parameters, row.gmacs) for row in ROWS] == [
        (18_957_825, "945.23"),
        (18_966_049, "945.29"),
        (18_966_082, "945.41"),
        (18_999_619, "945.44"),
    ]


def test_methods_that_change_no_layer_cost_what_the_baseline_costs() -> None:
    with TABLE6.open(encoding="utf-8", newline="") as file:
        table6 = {row["method"]: row["gflops"] for row in csv.DictReader(file)}
    assert {table6[name] for name in ("BigAug", "Cutout", "SAML", "MixStyle")} == {ROWS[0].gmacs}


def test_trilinear_upsampling_costs_no_more_than_nearest() -> None:
    with torch.device("meta"):
        networks = [ResidualEncoderDecoder(upsample=mode) for mode in ("trilinear", "nearest")]
    trilinear, nearest = (count_complexity(network, [(8, 16, 24)]) for network in networks)
    assert trilinear == nearest


def test_one_convolution_is_counted_by_hand() -> None:
    conv = nn.Conv3d(1, 4, 3, stride=2, padding=1, bias=False)
    found = count_complexity(conv, [(8, 16, 24), (4, 4, 4)])
    assert found.parameters == 108
    assert found.macs == 108 * (4 * 8 * 12 + 2 * 2 * 2)


def test_counting_by_shapes_equals_counting_a_network_that_runs() -> None:
    class Tuple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = ResidualEncoderDecoder(width=8, upsample="nearest")

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            outputs = vars(self.network(image)).values()
            return tuple(value for value in outputs if value is not None)

    from fvcore.nn import FlopCountAnalysis

    run = FlopCountAnalysis(Tuple().eval(), torch.rand(1, 1, 8, 16, 24))
    run.unsupported_ops_warnings(False).tracer_warnings("none")
    counted = count_complexity(ResidualEncoderDecoder(width=8), [(8, 16, 24)])
    with torch.backends.mkldnn.flags(enabled=False):  # fvcore does not know oneDNN's own operator
        assert run.total() == counted.macs


def test_a_structure_tells_networks_apart_that_may_cost_another_number() -> None:
    class Other(ResidualEncoderDecoder):
        """Its forward pass may do anything."""

    changes: tuple[dict[str, Any], ...]
    changes = ({"width": 16}, {"upsample": "trilinear"}, {"slices": False})
    with torch.device("meta"):
        one, same = (ResidualEncoderDecoder(width=8, upsample="nearest") for _ in range(2))
        others = [
            ResidualEncoderDecoder(**{"width": 8, "upsample": "nearest", **change})
            for change in changes
        ]
        others.append(Other(width=8, upsample="nearest"))
        convolutions = [nn.Conv3d(1, 2, 3, stride=stride) for stride in (1, 2)]
    assert structure(one) == structure(same)
    networks = [one, *others, *convolutions]
    assert len({structure(network) for network in networks}) == len(networks)
    assert count_once(one, [(8, 16, 24)]) == count_once(same, [(8, 16, 24)])
    assert count_once(same, [(8, 16, 24)]) == count_complexity(one, [(8, 16, 24)])


def test_what_is_trained_apart_from_the_network_is_not_counted() -> None:
    # A method's auxiliary part (a metric network, a domain code) is no part of what predicts.
    with torch.device("meta"):
        method = nn.Module()
        method.network = ResidualEncoderDecoder(distance=False, slices=False, projection=False)
        method.auxiliary = nn.Sequential(nn.Conv3d(32, 64, 3), nn.Linear(64, 64))
    found = count_complexity(method.network)
    assert (found.parameters, found.gmacs) == (18_957_825, "945.23")
    assert sum(p.numel() for p in method.parameters()) > found.parameters


def test_counting_leaves_the_network_as_it_was() -> None:
    network = ResidualEncoderDecoder(width=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_complexity(network, [(8, 8, 8)])
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_counting_leaves_convolutions_on_the_meta_device_as_they_were() -> None:
    conv = nn.Conv3d(1, 2, 3, device="meta")
    count_complexity(conv, [(4, 5, 6)])
    assert conv(torch.empty(1, 1, 4, 5, 6, device="meta")).shape == (1, 2, 2, 3, 4)


def test_the_benchmark_prints_every_figure_and_ends_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.bench_complexity.count_complexity", count_once)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "DIFFERS" not in printed
    for figure in ("18,957,825", "18,999,619", "945.29", "3.80e7, 945.44 (Ours)"):
        assert figure in printed


def test_a_differing_figure_ends_with_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Row("segmentation", ROWS[0].settings, ROWS[0].parameters, "945.24", None)
    monkeypatch.setattr("benchmarks.bench_complexity.ROWS", (wrong,))
    assert main([]) == 1
    assert "DIFFERS" in capsys.readouterr().out
