"""Table I: ours and the paper's side by side."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from data.prepare.signature import sign_image
from data.quality.survey import CaseFacts, Lesion
from data.quality.table1 import describe_center
from reproduce.table1 import main


def make_facts(case_id: str, tags: dict[str, str]) -> CaseFacts:
    lesion = Lesion(50.0, (0.0, 0.0, 0.0), (0.5, 0.5, 0.9))
    return CaseFacts(
        center="MSD",
        case_id=case_id,
        patient_id=case_id,
        shape=(40, 512, 512),
        spacing=(2.5, 0.7, 0.7),
        labeled=True,
        pancreas_ml=80.0,
        lesions=(lesion,),
        acquisition=tags,
        warnings=(),
        signature=sign_image("MSD", case_id, np.zeros((3, 3, 3), np.int16), (1.0, 1.0, 1.0)),
    )


def test_scanner_rows_join_names_and_give_few_numbers_singly_and_many_as_their_range() -> None:
    facts = [
        make_facts(
            str(number),
            {
                "manufacturer": ("GE", "SIEMENS")[number % 2],
                "tube_voltage_kvp": ("120", "100.0")[number % 2],
                "exposure_mas": str(100 + 50 * number),
            },
        )
        for number in range(5)
    ]
    column = describe_center(facts)
    assert column["manufacturer"] == "GE/SIEMENS"
    assert column["tube_voltage_kvp"] == "100/120"
    assert column["tube_current_mas"] == "100-300"
    assert column["spiral_pitch_factor"] == "-"
    assert column["lesion_part"] == "0/0/5"


def test_a_center_of_the_papers_name_is_shown_next_to_the_papers_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table1.csv"
    table.write_text("parameter,MSD,OWN\ncases,281,12\nslices,37-751,40-90\n", encoding="utf-8")
    assert main([str(table), "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "table1.csv").open(newline="") as stream:
        rows = {row[0]: row[1:] for row in csv.reader(stream)}
    assert rows[""] == ["MSD (ours)", "MSD (paper)", "OWN (ours)", "RENJI (paper)", "RMYY (paper)"]
    assert rows["cases"] == ["281", "281", "12", "160", "153"]
    assert rows["slices"] == ["37-751", "37-751", "40-90", "152-684", "41-336"]
    assert rows["patient cohort"] == ["-", "PDA/IPMN/PNET", "-", "PDA", "PDA"]
    assert "| cases | 281 | 281 | 12 | 160 | 153 |" in capsys.readouterr().out
    assert r"mm$^3$" in (tmp_path / "out" / "table1.tex").read_text()


def test_without_the_checks_result_the_command_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "table1.csv")]) == 1
    assert "run python data/check.py centers.toml" in capsys.readouterr().err
