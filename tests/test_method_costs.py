"""results/costs.csv: every method is in it, and what it says is what counting gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from methods import EXTERNAL, METHODS
from reproduce.analysis import method_costs
from reproduce.analysis.compare import read_paper
from reproduce.analysis.method_costs import (
    COSTS,
    MethodCost,
    count_method,
    method_cost,
    read_costs,
    write_costs,
)
from reproduce.analysis.paper_tables import EXTRA_METHODS, ROW_NAMES, TABLE6, TABLE6_METHODS
from tests._counting import count_once


def test_every_method_of_the_list_is_in_the_file() -> None:
    assert set(read_costs()) == set(METHODS)


def test_costs_equal_the_printed_ones_to_the_digit_or_a_note_says_why() -> None:
    paper, notes = read_paper(TABLE6.paper), {row.name: row.note for row in TABLE6.rows}
    differing = set()
    for row, method in TABLE6_METHODS.items():
        if method not in METHODS:  # what trains itself has no size before it has planned one
            continue
        cost = method_cost(method)
        ours = (f"{cost.parameters / 1e7:.2f}", f"{cost.macs / 1e9:.2f}")
        printed = (f"{paper[row]['params_1e7']:.2f}", f"{paper[row]['gflops']:.2f}")
        if ours != printed:
            differing.add(row)
            assert notes[row], f"{row}: {ours} and {printed}; say why in its table6_note"
    assert differing == {"DCAC", "LANet", "HOG", "DAM", "DART", "RandConv", "Ours"}


def test_rows_beside_the_papers_have_names_and_cost_what_the_baseline_costs() -> None:
    own = set(EXTRA_METHODS.values()) & set(METHODS)
    assert own == set(EXTRA_METHODS.values()) - set(EXTERNAL) == {"bigaug", "gin", "labelwise"}
    assert (ROW_NAMES["bl"], ROW_NAMES["ours"], ROW_NAMES["snr"]) == ("BL", "Ours", "SNR")
    for method in own:
        cost, base = method_cost(method), method_cost("bl")
        assert (cost.parameters, cost.macs) == (base.parameters, base.macs)


def test_passes_are_what_each_method_says_it_runs() -> None:
    costs = read_costs()
    several = {
        name: (cost.forwards, cost.backwards)
        for name, cost in costs.items()
        if (cost.forwards, cost.backwards) != (1, 1)
    }
    dart = several.pop("dart")
    assert dart[0] == dart[1] == pytest.approx(13 / 9, abs=0.1)  # two copies, two draws of two
    two = dict.fromkeys(("bl_dsl", "dam", "ours", "gin"), (2, 2))
    assert several == {**two, "randconv": (6, 3)}


@pytest.mark.slow
def test_the_file_says_what_counting_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """All networks, a structure once; the passes of those whose steps are alike, in two steps."""
    monkeypatch.setattr(method_costs, "count_complexity", count_once)
    real = method_costs.count_passes
    monkeypatch.setattr(method_costs, "count_passes", lambda method: real(method, 2, 2))
    for method, said in read_costs().items():
        counted = count_method(method)
        assert (counted.parameters, counted.macs) == (said.parameters, said.macs), method
        if said.steps == 8:
            assert (counted.forwards, counted.backwards) == (said.forwards, said.backwards), method


def test_a_method_that_the_file_lacks_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = MethodCost("bl", 1, 2, 1.0, 1.5, 8)
    monkeypatch.setattr(method_costs, "count_method", lambda method: one)
    monkeypatch.setattr(method_costs, "COSTS", tmp_path / "costs.csv")
    method_cost.cache_clear()
    assert method_cost("bl") is one
    method_cost.cache_clear()
    path = write_costs(["bl"], tmp_path / "mine.csv")
    assert read_costs(path) == {"bl": one}
    monkeypatch.setattr(method_costs, "COSTS", path)
    assert method_cost("bl") == one
    method_cost.cache_clear()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text("method,parameters\nbl,many\n")
    with pytest.raises(ValueError, match=r"costs.csv: not what reproduce/costs.py writes"):
        read_costs(path)
    assert COSTS.name == "costs.csv"
