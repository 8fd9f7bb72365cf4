"""Tables as text: nothing is lost or misread in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reproduce.analysis.render import (
    Group,
    Sheet,
    escape_latex,
    to_csv,
    to_latex,
    to_markdown,
    write_table,
)

SPECIALS = r"50 % of A_1 & B #2 {$3} ~x^2 \y <z> |w|"
SHEET = Sheet(
    "Title_1",
    ("", "A_1", "B 95 %"),
    (
        Group("DSC (%)", (("BL", "1.50 (2.00, -0.50)", "-"), ("R&D", "< 0.001", "x|y"))),
        Group("", (("last", "37-751", ""),)),
    ),
)


def test_every_special_character_of_latex_is_escaped() -> None:
    assert escape_latex(SPECIALS) == (
        r"50 \% of A\_1 \& B \#2 \{\$3\} \textasciitilde{}x\textasciicircum{}2 "
        r"\textbackslash{}y $<$z$>$ $|$w$|$"
    )


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("-0.50", "$-$0.50"),
        ("(2.00, -0.50)", "(2.00, $-$0.50)"),
        ("[-3.1, 4]", "[$-$3.1, 4]"),
        ("37-751", "37-751"),
        ("0.60-0.97", "0.60-0.97"),
        ("F-Seg", "F-Seg"),
        ("- (48.36)", "- (48.36)"),
        ("lesion (mm3)", "lesion (mm$^3$)"),
    ],
)
def test_a_sign_becomes_a_minus_and_a_hyphen_stays(text: str, latex: str) -> None:
    assert escape_latex(text) == latex


def test_markdown_has_a_cell_for_each_column_and_groups_in_bold() -> None:
    lines = to_markdown(SHEET).splitlines()
    assert lines[0] == "### Title_1"
    assert lines[2:] == [
        "|  | A_1 | B 95 % |",
        "| --- | --- | --- |",
        "| **DSC (%)** |  |  |",
        "| BL | 1.50 (2.00, -0.50) | - |",
        r"| R&D | < 0.001 | x\|y |",
        "| last | 37-751 |  |",
    ]


def test_each_line_of_latex_has_as_many_cells_as_the_header() -> None:
    text = to_latex(SHEET)
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    cells = [len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines if "multicolumn" not in line]
    assert cells == [3, 3, 3, 3]
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert re.findall(r"\\(?:top|mid|bottom)rule", text) == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]


def test_a_line_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="has 2 cells, not 3"):
        Sheet("t", ("", "a", "b"), (Group("", (("row", "1"),)),))


def test_csv_gives_back_what_was_written() -> None:
    rows: list[dict[str, Any]] = [
        {"name": 'a,"b"\nc', "value": 1 / 3, "count": 7, "note": None},
        {"name": "BL+IDR", "value": None, "count": 0, "note": "x; y"},
    ]
    text = to_csv(("name", "value", "count", "note"), rows)
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["name"] for row in found] == ['a,"b"\nc', "BL+IDR"]
    assert float(found[0]["value"]) == 1 / 3  # all digits
    assert (found[1]["value"], found[0]["note"], found[1]["count"]) == ("", "", "0")


def test_three_files_are_written(tmp_path: Path) -> None:
    write_table(tmp_path / "new" / "folder", "table9", "md\n", "tex\n", "csv\n")
    found = {p.name: p.read_text() for p in (tmp_path / "new" / "folder").iterdir()}
    assert found == {"table9.md": "md\n", "table9.tex": "tex\n", "table9.csv": "csv\n"}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_the_fragment_compiles(tmp_path: Path) -> None:
    wild = Sheet(SPECIALS, ("", *["wide column"] * 12), (Group(SPECIALS, ((SPECIALS,) * 13,)),))
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        f"{to_latex(SHEET)}\n{to_latex(wild)}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    log = (tmp_path / "a.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull" not in log  # a wide table is made smaller
