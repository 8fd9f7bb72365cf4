"""What `reproduce/run.py` ends with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reproduce.analysis.publish import to_markdown
from reproduce.analysis.rows import Rows
from reproduce.analysis.tables import make_report, table_keys
from reproduce.experiments.request import parse_request
from tests.conftest import Tiny


@pytest.fixture(autouse=True)
def _no_earlier_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the default experiment is in the current folder


@pytest.mark.parametrize(("rows", "shown"), [(["BL", "SNR"], True), (["BL", "Ours"], False)])
def test_the_benchmark_shows_table_vi_where_its_rows_were_asked_for(
    tiny: Tiny, rows: list[str], shown: bool
) -> None:
    request = parse_request(None, ["--what", "benchmark", "--seeds", "1", "--rows", *rows])
    request = replace(request, plan=replace(request.plan, centers=tiny.centers, holdout=0.0))
    reports = [
        make_report(table, Rows({}, {}, ("C",)), table_keys(table, ["C"], [1], ("target",)))
        for table in request.tables
    ]
    text = to_markdown(replace(request, targets=("C",)), reports)
    assert "## Table V: " in text
    assert ("## Table VI: " in text) == shown


def test_a_benchmark_that_ends_at_the_coarse_stage_shows_its_rows_alone(tiny: Tiny) -> None:
    words = ["--what", "benchmark", "--seeds", "1", "--rows", "BL", "SNR"]
    request = parse_request(None, [*words, "--stage", "tumor_coarse"])
    request = replace(request, plan=replace(request.plan, centers=tiny.centers))
    reports = [
        make_report(table, Rows({}, {}, ("C",)), table_keys(table, ["C"], [1], ("target",)))
        for table in request.tables
    ]
    text = to_markdown(request, reports)
    assert [line for line in text.splitlines() if line.startswith(("# ", "## "))] == [
        "# Benchmark",
        "## Before the fine stage: the rows of Table V, C-Seg",
        "## Before the fine stage: the rows of Table VI, C-Seg",
    ]
    assert f"- command: `{request.command}`" in text
