"""What the figures share: print size, command line, missing results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib import image as mpl_image
from matplotlib import pyplot as plt

from reproduce import figure5, figure6, figure7, figure8
from reproduce.analysis.figures import (
    PAGE_IN,
    Request,
    find_case,
    find_result,
    make_parser,
    report_missing,
    request_of,
    save_figure,
    write_numbers,
)
from reproduce.experiments.plan import Plan
from tests._figure_fixtures import (
    commands,
    digest,
    evaluate,
    rows_of,
)
from tests._table_fixtures import TIME

pytest_plugins = ["tests._figure_plugin"]


def test_a_picture_is_of_print_size_at_300_dpi_and_the_same_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        figure, axis = plt.subplots(figsize=(PAGE_IN, 2))
        axis.plot([0, 1], [1, 0])
        paths = save_figure(figure, tmp_path / name, "x")
    assert [path.suffix for path in paths] == [".png", ".pdf"]
    assert mpl_image.imread(paths[0]).shape[:2] == (600, round(PAGE_IN * 300))
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert not plt.fignum_exists(figure.number)  # closed: many figures keep to their memory


def test_numbers_are_written_with_six_digits_and_unknown_ones_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.csv"
    write_numbers(path, [{"a": 1 / 3, "b": float("nan"), "c": None, "d": "x", "e": 7}])
    assert path.read_text() == "a,b,c,d,e\n0.333333,,,x,7\n"


def test_the_command_line_makes_the_plan_that_the_tables_make(
    picture_centers: Path, tmp_path: Path
) -> None:
    words = ["--centers", str(picture_centers), "--targets", "B", "--options", "--width 8"]
    words += ["--time", TIME, "--experiment", str(tmp_path)]
    request = request_of(make_parser("x").parse_args([*words, "--threshold", "source-val"]))
    assert (request.targets, request.threshold) == (("B",), "source-val")
    assert request.plan == Plan(picture_centers, options=("--width", "8"), time=TIME)
    cell = request.cell("tumor_fine", "B")
    assert (cell.sources, cell.threshold) == (("A", "C"), "source-val")
    assert request.cell("pancreas_fine", "B").threshold == "target"  # it has no other
    for wrong in ("N", "D"):
        args = make_parser("x").parse_args([*words, "--targets", wrong])
        with pytest.raises(ValueError, match=f"--targets {wrong}: .* A, B, C"):
            request_of(args)


def test_a_mask_is_found_in_the_fold_that_tested_the_case(asked: Request) -> None:
    cell = asked.cell("tumor_fine", "C", folds=True)
    evaluate(asked, cell, rows_of([50, 60, 70, 80]), shift=0)
    result = find_result(asked.plan, cell)
    assert result is not None
    assert len(result.folders) == 4
    assert sorted(result.rows) == [f"case_{i}" for i in range(4)]
    case = find_case(asked.centers["C"], "case_2")
    mask = result.mask(case)
    assert mask is not None
    assert case.label is not None
    np.testing.assert_array_equal(mask, case.label == 2)
    (result.folders[2] / "predictions" / "case_2.nii.gz").unlink()
    assert result.mask(case) is None
    with pytest.raises(ValueError, match="C has no case case_9; it has case_0, case_1"):
        find_case(asked.centers["C"], "case_9")


def test_missing_cells_are_told_as_commands_each_once(
    asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = asked.cell("tumor_fine", "C")
    found = report_missing(asked.plan, [cell, cell])
    assert len(found) == len(set(found)) == 8  # four trainings, four evaluations
    assert commands(capsys.readouterr().out) == found
    with pytest.raises(FileNotFoundError, match="nothing there; give") as raised:
        report_missing(asked.plan, [cell], fatal="nothing there")
    assert commands(str(raised.value)) == found


@pytest.mark.parametrize("figure", [figure5, figure6, figure7, figure8])
def test_without_any_result_the_error_names_the_commands(
    figure: ModuleType, asked: Request
) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        figure.run(replace(asked, targets=("C",)))
    assert any("train_sh_tumor_coarse.py" in command for command in commands(str(raised.value)))
    assert any("evaluate_sh_tumor" in command for command in commands(str(raised.value)))
    assert not asked.out.exists()


@pytest.mark.parametrize("figure", [figure5, figure6, figure7, figure8])
def test_what_is_missing_ends_the_script_with_one_message_and_status_2(
    figure: ModuleType,
    picture_centers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        figure.main(["--centers", str(picture_centers), "--targets", "C", "--experiment", "mine"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: no tumor")
