"""Check every data set of a centers file: python data/check.py centers.toml

Reads every case and reports at once: what is refused and what to do about it, warnings, scans
that are listed twice, lesions under 10 mm3, and Table I's figures of every center. Writes
check.txt, table1.csv, cases.csv, lesions.csv, problems.csv, duplicates.csv, check.png and a picture
CENTER_CASE.png of each case with a warning. Cases that did not change since the last check are not
read again. Exit status: 0 when all can be used, 1 when something is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.case import DataError
from data.centers import choose_centers, load_centers
from data.quality.findings import CheckSettings, check_centers, format_findings, write_findings
from utils.arguments import Workers
from utils.scripts import ArgumentParser, run_script


def main(given: Sequence[str] | None = None) -> int:
    """Parse, check, print, write; the exit status."""
    arguments = _parse(given)
    partly = bool(arguments.center or arguments.case)
    out = arguments.out
    if out is None:
        out = arguments.centers.parent / "check"
        out = out / "part" if partly else out  # the whole check's files stay
    cache = arguments.cache if arguments.remember else None
    settings = CheckSettings(out, cache, arguments.workers, tuple(arguments.case))
    try:
        centers = choose_centers(load_centers(arguments.centers), arguments.center)
        _make_writable(out)
        findings = check_centers(centers, settings)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(format_findings(findings))
    if partly:
        print("\nonly a part was checked: duplicates were looked for among these cases alone")
    write_findings(findings, out)
    print(f"\nwritten to {out}")
    return 1 if findings.refused else 0


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    places = "(default: check, next to the centers file; check/part for a part)"
    add = parser.add_argument
    add("centers", type=Path, nargs="?", default=Path("centers.toml"))
    add("--center", nargs="+", default=(), metavar="NAME", help="only these centers")
    add("--case", nargs="+", default=(), metavar="ID", help="only these cases")
    add("--out", type=Path, help=f"folder to write to {places}")
    add("--cache", type=Path, default=Path("cache"), help="of the prepared cases (default: cache)")
    add("--no-cache", dest="remember", action="store_false", help="read every case again")
    add("--workers", type=Workers, default=1, help="processes (default: 1)")
    return parser.parse_args(given)


def _make_writable(out: Path) -> None:
    """Raises `DataError` before hours of reading, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "check.txt").touch()
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror}); give another folder by --out"
        ) from error


if __name__ == "__main__":
    run_script(lambda given: sys.exit(main(given)), sys.argv[1:])
