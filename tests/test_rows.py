"""Cases as data: what is written is read again, and a damaged file is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.case_metrics import COLUMNS, read_cases
from reproduce.analysis.paper_tables import ROW_NAMES
from reproduce.analysis.rows import (
    CASE_COLUMNS,
    KEY_COLUMNS,
    TEXT_COLUMNS,
    Network,
    Rows,
    is_measured,
    read_results,
    write_results,
)
from tests._rows_fixtures import key, make_case, make_cases, make_rows, write_experiment

KEYS = (
    key("tumor_fine", "A", "bl_idr", 7, threshold="source-val"),
    key("tumor_fine", "A", "bl_idr", 7),
    key("tumor_fine", "A", "bl_idr", 7, heldout="B"),
    key("tumor_fine", "A", "ours", 7, roi_source="mask"),
    key("pancreas_coarse", "B", "ours", 2022),
)


def rows_of_all() -> Rows:
    found = {of: make_cases([10.0 + number, 20.0]) for number, of in enumerate(KEYS)}
    folds = key("tumor_fine", "B", "ours", 7, folds=True)
    found[folds] = [row | {"fold": i} for i, row in enumerate(make_cases([1.0, 2.0, 3.0, 4.0]))]
    return make_rows(found, ("B", "A"))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = rows_of_all()
    folder = write_experiment(tmp_path / "mine", rows)
    read = read_results(folder)
    assert read.evaluations == rows.evaluations
    assert read.networks == rows.networks
    assert read.centers == ("B", "A")
    assert read.seeds == (7, 2022)


def test_a_file_holds_a_method_and_stage_with_a_line_for_each_case(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "mine", rows_of_all())
    assert sorted(path.name for path in folder.iterdir()) == [
        "bl_idr_tumor_fine.csv",
        "experiment.json",
        "networks.csv",
        "ours_pancreas_coarse.csv",
        "ours_tumor_fine.csv",
    ]
    header, first, *rest = (folder / "bl_idr_tumor_fine.csv").read_text().splitlines()
    assert header.startswith(
        "stage,method,row,target,seed,fold,roi_source,threshold,cases,center,case_id,dsc,asd_mm"
    )
    assert first.startswith("tumor_fine,bl_idr,BL+IDR,A,7,,seg,source-val,test,A,a,10,36,90,180,")
    assert len(rest) == 5
    assert sum(",heldout,B,a," in line for line in rest) == 1
    assert "recall" not in header  # a metric that no case has


def test_every_metric_of_a_run_is_kept_but_what_is_of_the_machine_and_its_files() -> None:
    assert set(CASE_COLUMNS) == (
        (set(COLUMNS) | {"threshold_value"}) - {"threshold", "peak_memory_mib", "mask_sha256"}
    )
    assert not set(CASE_COLUMNS) & set(KEY_COLUMNS)


def test_the_columns_that_are_text_are_those_of_a_runs_cases(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    for column in set(COLUMNS) & set(CASE_COLUMNS) - {"case_id"}:
        path.write_text(f"case_id,{column}\nname,word\n")
        if column in TEXT_COLUMNS:
            assert read_cases(path) == [{"case_id": "name", column: "word"}]
        else:
            with pytest.raises(ValueError, match="could not convert"):
                read_cases(path)


def test_numbers_have_six_digits_and_names_stay_text(tmp_path: Path) -> None:
    case = make_case("0012", 100 / 3) | {"empty": "pred label", "fallback": "pancreas"}
    of = key("tumor_fine", "A")
    folder = write_experiment(tmp_path / "mine", make_rows({of: [case]}, ("A",)))
    (read,) = read_results(folder).evaluations[of]
    assert read["case_id"] == "0012"
    assert read["dsc"] == 33.3333
    assert (read["empty"], read["fallback"]) == ("pred label", "pancreas")
    assert not is_measured(read)


def test_a_case_without_a_label_has_no_metric_after_reading_either(tmp_path: Path) -> None:
    of = key("tumor_fine", "A")
    rows = make_rows({of: [{"case_id": "x", "dsc": float("nan")}]}, ("A",))
    (read,) = read_results(write_experiment(tmp_path / "mine", rows)).evaluations[of]
    assert read == {"case_id": "x", "center": "A"}
    assert not is_measured(read)


def test_a_newer_evaluation_replaces_the_older_and_others_stay() -> None:
    older = make_rows({KEYS[0]: make_cases([1.0, 2.0]), KEYS[1]: make_cases([3.0])}, ("A", "B"))
    newer = Rows(
        {KEYS[1]: make_cases([9.0]), KEYS[2]: make_cases([5.0])},
        {("bl", "tumor_fine"): Network(1, 2)},
        ("B", "C"),
    )
    both = older.updated(newer)
    dscs = {of: [case["dsc"] for case in cases] for of, cases in both.evaluations.items()}
    assert dscs == {KEYS[0]: [1.0, 2.0], KEYS[1]: [9.0], KEYS[2]: [5.0]}
    assert both.networks["bl", "tumor_fine"] == Network(1, 2)
    assert both.networks["ours", "tumor_fine"] == older.networks["ours", "tumor_fine"]
    assert both.centers == ("B", "C", "A")


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "mine", rows_of_all())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_results(folder, read_results(folder), ROW_NAMES)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",source-val,", ",honest,", "line 2: cases is 'test'"),
        (",heldout,B,a,", ",seen,B,a,", "cases is 'seen' .test or heldout."),
        ("bl_idr,BL+IDR,A,7,", "bl_idr,BL+IDR,A,seven,", "line 2: invalid literal"),
        (",A,b,20,", ",A,b,twenty,", "line 3: could not convert"),
        (",A,b,20,", ",A,a,20,", "line 3: a is listed twice .bl_idr, tumor_fine, A, seed 7"),
        ("A,b,20,32,80,160,0.5,3\n", "A,b,20,32\n", "line 3: not as long as the header"),
        ("roi_source,", "roi,", "has no column roi_source; export it again"),
    ],
)
def test_a_damaged_line_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "mine", rows_of_all())
    path = folder / "bl_idr_tumor_fine.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as caught:
        read_results(folder)
    assert str(path) in str(caught.value)


def test_a_folder_that_was_not_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="export_results"):
        read_results(tmp_path)


def test_rows_that_were_edited_since_the_export_are_not_read(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "mine", rows_of_all())
    path = folder / "ours_tumor_fine.csv"
    text = path.read_text()
    path.write_text("\n".join(text.splitlines()[:-1]) + "\n")  # a case less, another mean
    with pytest.raises(ValueError, match=r"ours_tumor_fine\.csv changed since the export"):
        read_results(folder)
    path.write_text(text)
    assert read_results(folder).evaluations == rows_of_all().evaluations
    path.unlink()
    with pytest.raises(ValueError, match=r"ours_tumor_fine\.csv changed since the export"):
        read_results(folder)
