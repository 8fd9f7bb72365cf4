"""The rows of systems that are not ours, in Table VI and in exported results."""

from __future__ import annotations

import json
from pathlib import Path

from methods import EXTERNAL, stage_of
from reproduce.analysis.paper_tables import TABLE6
from reproduce.analysis.rows import (
    Network,
    ResultKey,
    Rows,
    digest_files,
    read_results,
    write_results,
)
from reproduce.analysis.tables import budget_notes, make_report
from utils.stages import STAGES


def test_every_external_method_has_its_row_and_the_stage_that_it_says() -> None:
    rows = {row.method: row.name for row in TABLE6.rows}
    for name, method in EXTERNAL.items():
        assert rows[name] == method.row
        assert method.cascade is False
        for stage in method.stages:
            own = stage_of(name, STAGES[stage])
            assert (own.previous is None) == (own.roi == "volume")


def rows_of(method: str, network: Network) -> Rows:
    cases = [{"case_id": f"c{k}", "center": "C", "dsc": 40.0 + k, "asd_mm": 5.0, "hd95_mm": 9.0}
             | {"empty": "", "seconds": 2.0} for k in range(3)]  # fmt: skip
    keys = [
        ResultKey("tumor_fine", "C", method, 2022, threshold=threshold)
        for threshold in ("target", "source-val")
    ]
    return Rows(dict.fromkeys(keys, cases), {(method, "tumor_fine"): network}, ("C",))


def table6(rows: Rows) -> str:
    keys = {
        (key.threshold, row.name, "C"): (key,)
        for key in rows.evaluations
        for row in TABLE6.rows
        if row.method == key.method
    }
    return make_report(TABLE6, rows, keys).markdown


def test_rows_of_one_budget_share_a_sentence() -> None:
    why, other = "each network has trained 2 iterations", "each network has trained 3 iterations"
    assert budget_notes({"A": why, "B": other, "C": why}) == (
        f"A, C: budget not comparable: {why}.",
        f"B: budget not comparable: {other}.",
    )


def test_table_6_marks_a_budget_that_is_not_comparable() -> None:
    text = table6(rows_of("nnunet_3d_lowres", Network(30_787_000, 734_240_000_000, 2, 250_000)))
    assert "nnUNet_3d_lowres (budget not comparable)" in text
    assert "each network has trained 2 iterations, its authors' 250000" in text
    assert "| nnUNet_3d_lowres | 3.08 (3.08" in text  # the cost
    whole = table6(rows_of("nnunet_3d_lowres", Network(1, 1, 250_000, 250_000)))
    assert "budget not comparable" not in whole


def test_exported_results_keep_the_budget(tmp_path: Path) -> None:
    rows = rows_of("nnunet_crops", Network(7, 9, 2, 250_000))
    write_results(tmp_path, rows, {"nnunet_crops": "a row"})
    facts = {"centers": ["C"], "files": digest_files(tmp_path)}
    (tmp_path / "experiment.json").write_text(json.dumps(facts))
    back = read_results(tmp_path)
    assert back.networks == rows.networks
    assert set(back.evaluations) == set(rows.evaluations)
    write_results(tmp_path, Rows({}, {("ours", "tumor_fine"): Network(1, 2)}), {})
    header = (tmp_path / "networks.csv").read_text().splitlines()[0]
    assert header == "method,stage,parameters,macs"  # as before, where nothing is external
