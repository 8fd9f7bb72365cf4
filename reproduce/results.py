"""Make docs/results.md and docs/comparison.md of the cases in results/: python reproduce/results.py

Their texts are docs/results.template.md and docs/comparison.template.md; every table and number
comes from results/. The tables of results in README.md and docs/method.md are filled in too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.page import Page
from reproduce.analysis.results_page import refresh_sections, render_page
from utils.commands import ROOT
from utils.files import write_text
from utils.scripts import ArgumentParser, run_script

TEMPLATE, PAGE = ".template.md", ".md"


def make_pages(args: argparse.Namespace) -> None:
    """Write the pages, and the sections of other pages that come from the cases."""
    made = [args.out / path.name.replace(TEMPLATE, PAGE) for path in args.templates]
    page = Page(args.results)
    for path, out in zip(args.templates, made, strict=True):
        if not path.name.endswith(TEMPLATE):
            raise ValueError(f"{path}: a template's name ends in {TEMPLATE}")
        write_text(out, render_page(path.read_text(encoding="utf-8"), page))
    for path in args.pages:
        text = path.read_text(encoding="utf-8")
        write_text(path, refresh_sections(text, page))
    print(*made, *args.pages, sep="\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, docs = parser.add_argument, ROOT / "docs"
    add("--results", type=Path, default=ROOT / "results", help="folder of the experiments")
    templates = [docs / f"{name}{TEMPLATE}" for name in ("results", "comparison")]
    text = f"texts of pages, NAME{TEMPLATE}"
    add("--templates", type=Path, nargs="+", default=templates, metavar="FILE", help=text)
    add("--out", type=Path, default=docs, metavar="DIR", help=f"folder of the pages, NAME{PAGE}")
    pages = [ROOT / "README.md", docs / "method.md"]
    add("--pages", type=Path, nargs="+", default=pages, help="pages with tables of results")
    run_script(make_pages, parser.parse_args(argv))


if __name__ == "__main__":
    main()
