"""`benchmarks/run.py`: every bench apart, what is missing said, resumed, compared; the page."""

from __future__ import annotations

import ast
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_numbers, run, run_one, scaling
from benchmarks.bench_scale import growth, slope
from benchmarks.benches import BENCHES, NOT_RUN, Bench
from benchmarks.compare import compare, flatten, is_of_machine
from benchmarks.page_block import replace_block
from benchmarks.timing import interleaved, medians, times_as_fast
from tests._sources import ROOT, tree_of


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two benches and what a child of each answers; `asked` lists what was started."""
    answers: dict[str, Any] = {
        "one": {"status": "done", "reason": "", "values": {"a_s": 2.0, "b_ratio": 3}},
        "two": {"status": "not run", "reason": "needs x: install x", "values": {}},
        "asked": [],
    }

    def child(module: str, arguments: dict[str, Any], threads: int) -> dict[str, Any]:
        answers["asked"].append(module)
        if isinstance(answers[module], BaseException):
            raise answers[module]
        return answers[module]

    benches = {name: Bench(name, "") for name in ("one", "two")}
    monkeypatch.setattr(run, "BENCHES", benches)
    monkeypatch.setattr(run, "run_in_child", child)
    monkeypatch.setattr(run, "measure_bound", lambda: {"fp32_gmac_per_s": 1.0})
    monkeypatch.setattr(run, "checked_out", lambda: "abc1234")
    return answers


def test_a_killed_run_keeps_what_was_measured_and_the_same_command_does_the_rest(
    fakes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = run.parse(["--quick", "--out", str(tmp_path / "r.json")])
    fakes["two"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run.run(asked)
    assert run.read_result(asked.out)["benches"]["one"]["values"] == {"a_s": 2.0, "b_ratio": 3}
    fakes["two"] = {"status": "not run", "reason": "needs x: install x", "values": {}}
    run.run(asked)
    assert fakes["asked"] == ["one", "two", "two"]
    run.run(run.parse(["--quick", "--only", "one", "--out", str(asked.out), "--set", "one.n=[2]"]))
    assert run.read_result(asked.out)["benches"]["one"]["arguments"] == {"n": [2]}
    run.run(run.parse(["--quick", "--only", "one", "--out", str(asked.out)]))
    assert "not run: two: needs x: install x" in capsys.readouterr().out
    fakes["two"] = {"status": "failed", "reason": "it broke", "values": {}}
    with pytest.raises(SystemExit) as caught:
        run.run(asked)
    assert caught.value.code == 1
    assert "failed: two: it broke" in capsys.readouterr().out


def test_other_code_is_measured_again_and_another_size_needs_another_file(
    fakes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--only", "one", "--out", str(tmp_path / "r.json")]
    run.run(run.parse(words))
    monkeypatch.setattr(run, "checked_out", lambda: "def5678")
    run.run(run.parse(words))
    assert fakes["asked"] == ["one", "one"]
    assert run.read_result(tmp_path / "r.json")["benches"]["one"]["commit"] == "def5678"
    with pytest.raises(ValueError, match=r"r\.json: is of another quick; give another file"):
        run.run(run.parse([*words, "--quick"]))


def test_a_bench_runs_in_a_process_of_its_own_with_its_arguments() -> None:
    found = run.run_in_child("bench_memory_of_nobody", {"a": [1]}, 1)
    assert found["status"] == "not run"
    assert found["reason"] == "there is no benchmarks/bench_memory_of_nobody.py"
    assert found["peak_mib"] > 1


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ModuleNotFoundError("no", name="nnunetv2.inference"), "not run", "requirements-nnunet"),
        (ModuleNotFoundError("no", name="medpy"), "not run", "requirements-dev.txt"),
        (ModuleNotFoundError("no", name="engine.nothing"), "failed", "ModuleNotFoundError"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
    ],
)
def test_a_missing_package_is_told_from_a_fault(
    error: Exception, status: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def importing(name: str) -> None:
        raise error

    monkeypatch.setattr(run_one.importlib, "import_module", importing)
    found = run_one.run_bench("bench_x", {})
    assert (found["status"], reason in found["reason"]) == (status, True)


def test_what_is_no_finite_number_is_refused_by_its_place() -> None:
    given = {"a": np.float32(0.5), "b": (1, None, "x")}
    assert run_one.plain(given) == {"a": 0.5, "b": [1, None, "x"]}
    with pytest.raises(ValueError, match=r"measure\(\)\['a'\]\[1\]: nan is no finite number"):
        run_one.plain({"a": [0.0, float("nan")]})


def result(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"quick": False}
    facts["machine"] = {"gpus": [], "cores": 2, "processor": "P", "threads": 1}
    entry = {"status": "done", "arguments": {}, "values": values, "date": "d", "commit": "c"}
    return {**facts, **more, "benches": {"one": entry}}


def test_numbers_are_compared_by_ratio_and_those_of_a_machine_are_marked() -> None:
    then = result({"a_s": 2.0, "b_ratio": 4.0, "deep": {"n": 0}, NOT_RUN: {"x": "install"}})
    now = result({"a_s": 3.0, "b_ratio": 2.0, "deep": {"n": 0}, "new_s": 1.0})
    rows = [line.split() for line in compare(then, now)[1:4]]
    assert rows == [
        ["one.a_s", "*", "2", "3", "1.50"],
        ["one.b_ratio", "4", "2", "0.50"],
        ["one.deep.n", "0", "0", "1.00"],
    ]
    elsewhere = {**now["machine"], "processor": "Q"}
    assert "the machines differ" in "\n".join(compare(then, {**now, "machine": elsewhere}))
    now["benches"]["one"]["arguments"] = {"width": 8}
    assert "other arguments, not compared: one" in "\n".join(compare(then, now))


def test_ratios_counts_and_bytes_are_comparable_and_seconds_are_not() -> None:
    assert all(map(is_of_machine, ("x.ours_s", "ms", "a.copy_gb_per_s", "at.10.s", "load")))
    assert not any(map(is_of_machine, ("a_ratio", "exponent", "peak_mib", "launches", "passes")))
    assert dict(flatten({"a": [1, {"b": 2}], "c": True, "d": "x"})) == {"a.0": 1.0, "a.1.b": 2.0}


def test_ways_are_measured_in_turn_and_each_round_has_its_own_ratio() -> None:
    order: list[str] = []
    time = iter([0, 9, 9, 18, 20, 21, 30, 33, 40, 42, 50, 58])  # the first round warms up
    ways = {name: partial(order.append, name) for name in ("ours", "peer")}
    seconds = interleaved(ways, 2, lambda: float(next(time)))
    assert order == ["ours", "peer"] * 3
    assert seconds == {"ours": [1, 2], "peer": [3, 8]}
    assert medians(seconds) == {"ours_s": 1.5, "peer_s": 5.5}
    assert times_as_fast(seconds, "ours") == {"peer_ratio": 3.5}


def test_growth_with_the_square_is_told_from_growth_with_the_number() -> None:
    assert growth({10: 5.0, 100: 1.0, 200: 2.0})["exponent"] == pytest.approx(1)
    assert growth({100: 1.0, 1000: 100.0}) == {"exponent": pytest.approx(2), "ms": 100.0}
    assert slope({10: 9.0, 100: 50.0, 300: 70.0}) == pytest.approx(0.1)


def test_a_bench_takes_the_arguments_that_the_list_has_for_it() -> None:
    for bench in BENCHES.values():
        (measure,) = (
            part
            for part in ast.walk(tree_of(ROOT / "benchmarks" / f"{bench.module}.py"))
            if isinstance(part, ast.FunctionDef) and part.name == "measure"
        )
        names = {arg.arg for arg in (*measure.args.args, *measure.args.kwonlyargs)}
        assert {*bench.full, *bench.quick} <= names, bench.module
    assert json.loads(json.dumps({n: [dict(b.full), dict(b.quick)] for n, b in BENCHES.items()}))


@pytest.mark.parametrize(
    "text", ["scale", "scale.counts", "scale.counts=[", "nobody.n=1", "scale.=1"]
)
def test_an_argument_of_a_bench_is_its_name_and_json(text: str) -> None:
    assert run.parse(["--set", "scale.counts=[1, 2]"]).set == {"scale": {"counts": [1, 2]}}
    with pytest.raises(SystemExit):
        run.parse(["--set", text])


def test_the_page_on_scaling_has_the_numbers_of_the_committed_result() -> None:
    scaling.main(["--check"])


def test_the_page_on_a_gpu_has_the_numbers_of_the_committed_result() -> None:
    gpu_numbers.main(["--check"])
    with pytest.raises(ValueError, match=r"no gpu_step, .*; run benchmarks/run.py --only gpu_step"):
        gpu_numbers.render({"benches": {"gpu_step": {"status": "failed"}}})


def test_the_arithmetic_of_the_page() -> None:
    steps = {"exponent": 1.0, "ms": 2.0, "mib_per_case": 0.0, "at": {"10": {}, "100": {}}}
    check = {"million_voxels": 12.0, "read_s": 0.9, "check_s": 3.6, "remembered_s": 0.0}
    check |= {"prepare_s": 9.0, "prepared_s": 0.0, "stored_mib": 100.0, "facts_kib": 512.0}
    cascade = {"million_voxels": 26.0, "without_networks_s": 18.0, "written_mib": 1.0}
    cascade |= {"paper_network_gmac": 36_000.0, "passes": 4}
    machine = {"date": "d", "cores": 2, "processor": "P", "threads": 1, "load": 0.0}
    text = scaling.render(
        {"check": check, "cascade": cascade, "scale": {"x": steps}, "machine": machine}, 6400, 64
    )
    assert "| prepare (read, resample, store) | 12.0 | 9.000 | 16.0 |" in text
    assert "take (18.0 + g) x 6,400 / 64 s = 0.5 h + g x 0.03 h" in text
    assert "this takes g = 36.0 / r seconds; r and g: not measured" in text
    assert "r = 2.0 with one core, 8.0 with four" in text
    assert "Growth between 10 and 100 tiny cases" in text
    text = scaling.render({"check": check, "cascade": cascade, "machine": machine})
    assert "Growth with the number of cases: not measured." in text
    gpu = {"network_gmac": 36_000.0, "networks_s": 0.5, "device": "G"}
    text = scaling.render({"check": check, "cascade": cascade, "machine": machine, "gpu": gpu})
    assert "r and g: 72 and 0.50 on one G." in text
    with pytest.raises(ValueError, match="the page has no"):
        replace_block("text", "block", "scaling.py")
