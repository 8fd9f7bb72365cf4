"""What `reproduce/run.py` ends with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reproduce.analysis.publish import to_markdown
from reproduce.analysis.rows import Rows
from reproduce.analysis.tables import make_report, table_keys
from reproduce.experiments.request import parse_request
from tests.conftest import Tiny


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
