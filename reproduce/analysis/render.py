"""A table's text: Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files import write_text

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}
# A minus is longer than a hyphen; the hyphen of a range or a name stands after a letter or digit.
MINUS = re.compile(r"(?<![\w.)\]])-(?=\d)")

CUBIC_MM = re.compile(r"\bmm3\b")


@dataclass(frozen=True)
class Group:
    """Lines of a table that belong together, under a heading ("": none)."""

    heading: str
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Sheet:
    """One table as text: plain cells, every line as long as the header."""

    title: str
    header: tuple[str, ...]
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        for group in self.groups:
            for line in group.lines:
                if len(line) != len(self.header):
                    raise ValueError(
                        f"{self.title}: {line} has {len(line)} cells, not {len(self.header)}"
                    )


def to_markdown(sheet: Sheet) -> str:
    """A heading and a pipe table; a group's heading is a bold line of its own."""
    rows: list[Sequence[str]] = [sheet.header, ["---"] * len(sheet.header)]
    for group in sheet.groups:
        if group.heading:
            rows.append([f"**{group.heading}**", *[""] * (len(sheet.header) - 1)])
        rows += group.lines
    table = "\n".join("| " + " | ".join(_pipe_safe(c) for c in row) + " |" for row in rows)
    return (f"### {sheet.title}\n\n" if sheet.title else "") + table + "\n"


def to_latex(sheet: Sheet) -> str:
    r"""A `table*` with a `tabular`, made smaller where it is wider than the page.

    Needs \usepackage{booktabs,graphicx} and no more.
    """
    count = len(sheet.header)
    body = [_latex_line(sheet.header), r"\midrule"]
    for number, group in enumerate(sheet.groups):
        if number:
            body.append(r"\addlinespace")
        if group.heading:
            heading = rf"\textbf{{{escape_latex(group.heading)}}}"
            body.append(rf"\multicolumn{{{count}}}{{@{{}}l@{{}}}}{{{heading}}} \\")
        body += [_latex_line(line) for line in group.lines]
    caption = [rf"\caption{{{escape_latex(sheet.title)}}}"] if sheet.title else []
    return "\n".join(
        [
            r"\begin{table*}[tbp]",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            *caption,
            r"\sbox0{%",
            rf"\begin{{tabular}}{{@{{}}l{'r' * (count - 1)}@{{}}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}%",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            r"\end{table*}",
        ]
    )


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters escaped; a sign before a number becomes a minus."""
    escaped = "".join(LATEX.get(letter, letter) for letter in text)
    return CUBIC_MM.sub("mm$^3$", MINUS.sub("$-$", escaped))


def to_csv(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with a header; None is an empty cell, and a float keeps all its digits."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, header, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if row[name] is None else row[name] for name in header})
    return buffer.getvalue()


def write_table(out: Path, name: str, markdown: str, latex: str, csv_text: str) -> None:
    """OUT/name.md, .tex and .csv, each written atomically; the folder is made."""
    for ending, text in (("md", markdown), ("tex", latex), ("csv", csv_text)):
        write_text(out / f"{name}.{ending}", text)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


def _pipe_safe(cell: str) -> str:
    return cell.replace("|", r"\|")
