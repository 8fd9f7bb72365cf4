"""Make docs/results.md of the exported cases in results/: python reproduce/results.py

Its text is docs/results.template.md; every table and number comes from results/. The tables
of results in README.md and docs/method.md are filled in too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.results_page import refresh_sections, render_page
from utils.commands import ROOT
from utils.files import write_text
from utils.scripts import ArgumentParser, run_script


def make_page(args: argparse.Namespace) -> None:
    """Write the page, and the sections of other pages that come from the cases."""
    write_text(args.out, render_page(args.template.read_text(encoding="utf-8"), args.results))
    for path in args.pages:
        text = path.read_text(encoding="utf-8")
        write_text(path, refresh_sections(text, args.results))
    print(args.out, *args.pages, sep="\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, docs = parser.add_argument, ROOT / "docs"
    add("--results", type=Path, default=ROOT / "results", help="folder of the experiments")
    add("--template", type=Path, default=docs / "results.template.md", help="the page's text")
    add("--out", type=Path, default=docs / "results.md", help="the page")
    pages = [ROOT / "README.md", docs / "method.md"]
    add("--pages", type=Path, nargs="+", default=pages, help="pages with tables of results")
    run_script(make_page, parser.parse_args(argv))


if __name__ == "__main__":
    main()
