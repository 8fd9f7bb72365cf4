"""measures.csv while scans are predicted: rows are added; at the end it is as if written once."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from engine import scan_output
from engine.scan_output import COLUMNS, MANIFEST, MEASURES, ScanTable, write_manifest
from utils.files import write_json

STAGES = ("pancreas_fine", "tumor_fine")


def finish_scan(out: Path, case: str, volume_ml: float = 1.0) -> None:
    """The outputs of a predicted scan, as far as the table reads them."""
    stage = {
        **{"target": "tumor", "volume_ml": volume_ml, "centroid_lps_mm": [1.0, 2.0, 3.0]},
        "roi_box": {"start": [0, 0, 0], "stop": [1, 2, 3]},
    }
    content = {
        **{"case": case, "software": "s", "notice": "n", "peak_memory_mib": 0},
        "checkpoints_sha256": dict.fromkeys(STAGES, "ab"),
        "warnings": ["one,\ntwo"],
        "stages": dict.fromkeys(STAGES, stage),
    }
    write_json(out / case / MEASURES, content)
    write_manifest(out / case, {"outputs": [MEASURES]})


def rows_of(out: Path) -> list[tuple[str, float]]:
    """Case and volume of each second row: a case has two, a stage each."""
    with (out / "measures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(len(row) == len(COLUMNS) and None not in row.values() for row in rows)
    assert [row["case"] for row in rows[::2]] == [row["case"] for row in rows[1::2]]
    return [(row["case"], float(row["volume_ml"])) for row in rows[::2]]


def test_rows_are_added_in_the_order_of_scans_and_sorted_at_the_end(tmp_path: Path) -> None:
    finish_scan(tmp_path, "m")
    table = ScanTable(tmp_path, ["z", "a"])
    for name in ("z", "a"):
        finish_scan(tmp_path, name)
        table.replace(name)
    assert [name for name, _ in rows_of(tmp_path)] == ["m", "z", "a"]
    table.finish()
    whole = (tmp_path / "measures.csv").read_bytes()
    assert [name for name, _ in rows_of(tmp_path)] == ["a", "m", "z"]
    ScanTable(tmp_path, [])
    assert (tmp_path / "measures.csv").read_bytes() == whole


def test_a_kill_while_a_row_is_written_leaves_nothing_for_the_next_call(tmp_path: Path) -> None:
    finish_scan(tmp_path, "a")
    ScanTable(tmp_path, ["a", "b"])
    finish_scan(tmp_path, "b")
    with (tmp_path / "measures.csv").open("a") as stream:
        stream.write("b,pancreas_fi")
    table = ScanTable(tmp_path, ["a", "b"])
    assert [name for name, _ in rows_of(tmp_path)] == ["a", "b"]
    table.keep("a")
    table.keep("b")
    assert [name for name, _ in rows_of(tmp_path)] == ["a", "b"]


def test_what_is_predicted_again_is_never_there_twice_and_rewrites_the_table_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        finish_scan(tmp_path, name)
    table = ScanTable(tmp_path, "abc")
    whole: list[Path] = []
    write = scan_output.write_text

    def count(path: Path, text: str) -> None:
        whole.append(path)
        write(path, text)

    monkeypatch.setattr(scan_output, "write_text", count)
    table.keep("a")
    finish_scan(tmp_path, "b", 7.0)
    table.replace("b")
    assert rows_of(tmp_path) == [("a", 1.0), ("d", 1.0), ("b", 7.0)]  # of c nothing is known yet
    (tmp_path / "c" / MANIFEST).unlink()  # it failed: its outputs were removed before
    table.replace("c")
    assert rows_of(tmp_path) == [("a", 1.0), ("d", 1.0), ("b", 7.0)]
    assert len(whole) == 1
    table.finish()
    assert rows_of(tmp_path) == [("a", 1.0), ("b", 7.0), ("d", 1.0)]


def test_a_table_that_was_deleted_meanwhile_is_made_again(tmp_path: Path) -> None:
    table = ScanTable(tmp_path, ["a", "b"])
    for name in "ab":
        (tmp_path / "measures.csv").unlink()
        finish_scan(tmp_path, name)
        table.replace(name)
    assert [name for name, _ in rows_of(tmp_path)] == ["a", "b"]
