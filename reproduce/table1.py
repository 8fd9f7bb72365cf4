"""Table I, ours beside the paper's: python reproduce/table1.py check/table1.csv

Reads what `python data/check.py centers.toml` wrote and prints Markdown; writes table1.md,
table1.csv and table1.tex beside it, or into --out. A center of the paper's names stands next to the
paper's column; rows that a data set's files do not tell are "-".
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.quality.table1 import TITLES, UNKNOWN
from reproduce.analysis.render import Group, Sheet, to_latex, to_markdown, write_table
from utils.files import read_csv
from utils.scripts import ArgumentParser, run_script

PAPER = Path(__file__).resolve().parents[1] / "paper" / "table1_datasets.csv"
TITLE = "Table I: the centers"
COHORT = "patient_cohort"  # the paper tells it, image files do not


def read_columns(path: Path) -> dict[str, dict[str, str]]:
    """Center -> row -> text, from a CSV with a line per row."""
    rows = read_csv(path, "run python data/check.py centers.toml again", ("parameter",))
    if not rows:
        raise ValueError(f"{path}: has no rows; run python data/check.py centers.toml again")
    names = [name for name in rows[0] if name != "parameter"]
    return {name: {row["parameter"]: row[name] for row in rows} for name in names}


def join_columns(
    ours: dict[str, dict[str, str]], paper: dict[str, dict[str, str]]
) -> tuple[list[str], list[list[str]]]:
    """Header and lines: each of our centers, the paper's of that name after it; then the rest."""
    columns: list[tuple[str, dict[str, str]]] = []
    for name, column in ours.items():
        columns.append((f"{name} (ours)", column))
        if name in paper:
            columns.append((f"{name} (paper)", paper[name]))
    columns += [(f"{name} (paper)", paper[name]) for name in paper if name not in ours]
    titles = {"cases": TITLES["cases"], COHORT: "patient cohort", **TITLES}
    lines = [
        [title, *(column.get(row) or UNKNOWN for _, column in columns)]
        for row, title in titles.items()
    ]
    return ["", *(name for name, _ in columns)], lines


def make_sheet(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Sheet:
    """The joined columns as a sheet."""
    return Sheet(TITLE, tuple(header), (Group("", tuple(tuple(line) for line in lines)),))


def main(given: Sequence[str] | None = None) -> int:
    """Print and write the table; 1 where the check has not been run."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, nargs="?", default=Path("check/table1.csv"))
    parser.add_argument(
        "--out", type=Path, help="folder to write to (default: reproduced, beside it)"
    )
    arguments = parser.parse_args(given)
    if not arguments.table.is_file():
        print(f"{arguments.table}: missing; run python data/check.py centers.toml", file=sys.stderr)
        return 1
    header, lines = join_columns(read_columns(arguments.table), read_columns(PAPER))
    out = arguments.table.parent / "reproduced" if arguments.out is None else arguments.out
    sheet = make_sheet(header, lines)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *lines])
    markdown, latex = to_markdown(sheet), to_latex(sheet)
    write_table(out, "table1", markdown, latex, buffer.getvalue())
    print(markdown)
    return 0


if __name__ == "__main__":
    run_script(lambda given: sys.exit(main(given)), sys.argv[1:])
