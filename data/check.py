"""Check every data set of a centers file: python data/check.py centers.toml

Reads every case and tells all at once: what is refused and how to mend it, what is odd, scans that
are in two centers, lesions under 10 mm3, and Table I's figures of every center. Writes check.txt,
table1.csv, cases.csv, lesions.csv, problems.csv and check.png. Exit status: 0 when all can be used,
1 when something is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.case import Center, DataError
from data.centers import load_centers
from data.prepare.duplicates import judge_doubles
from data.prepare.parallel import run_jobs
from data.quality.picture import draw_check
from data.quality.survey import TINY_LESION_MM3, CaseFacts, survey_case
from data.quality.table1 import (
    describe_center,
    format_table,
    write_cases,
    write_csv,
    write_lesions,
    write_table,
)
from data.readers import label_map_of, list_cases
from data.readers.files import CaseFiles


@dataclass
class Findings:
    """What the check found: figures of every readable case, and sentences of three kinds."""

    facts: dict[str, list[CaseFacts]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    tiny: list[str] = field(default_factory=list)


def check_centers(centers: Mapping[str, Center], workers: int = 1) -> Findings:
    """Read every case of every center and collect what is wrong with any of them."""
    findings = Findings(facts={name: [] for name in centers})
    jobs: list[tuple[Center, CaseFiles]] = []
    for center in centers.values():
        try:
            files = list_cases(center)
            if any(case.label is not None for case in files):
                label_map_of(center)  # once for the center, instead of once per case
            jobs += [(center, case) for case in files]
        except DataError as error:
            findings.refused += _named(center, error)
    for found in run_jobs(_survey, jobs, workers, "checking"):
        if isinstance(found, DataError):
            findings.refused += found.problems
        else:
            findings.facts[found.center].append(found)
    for center in centers.values():
        findings.refused += _unlabeled(findings.facts[center.name])
    cases = [case for name in centers for case in findings.facts[name]]
    dropping = {name for name, center in centers.items() if center.drop_doubles}
    dropped, doubles = judge_doubles(cases, dropping)
    findings.refused += doubles
    for (name, case_id), other in dropped.items():
        findings.dropped.append(f"{name}/{case_id}: is left out, the same scan as {other}")
        findings.facts[name] = [c for c in findings.facts[name] if c.case_id != case_id]
    for case in (case for name in centers for case in findings.facts[name]):
        where = f"{case.center}/{case.case_id}"
        findings.odd += [f"{where}: {oddity}" for oddity in case.oddities]
        findings.tiny += [
            f"{where}: {lesion.volume_mm3:.1f} mm3 in the {lesion.part} third"
            for lesion in case.lesions
            if lesion.volume_mm3 < TINY_LESION_MM3
        ]
    return findings


def format_findings(findings: Findings) -> str:
    """Everything as text: Table I first, then each kind with its count."""
    columns = {name: describe_center(facts) for name, facts in findings.facts.items()}
    parts = ["Table I", format_table(columns)]
    kinds = {
        "refused": findings.refused,
        "left out, as drop_doubles says": findings.dropped,
        "odd, but used": findings.odd,
        f"lesions under {TINY_LESION_MM3:.0f} mm3": findings.tiny,
    }
    for title, sentences in kinds.items():
        if sentences or title == "refused":
            parts += ["", f"{title}: {len(sentences)}", *(f"  {text}" for text in sentences)]
    return "\n".join(parts)


def write_findings(findings: Findings, out: Path) -> None:
    """All files of the check, in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "check.txt").write_text(format_findings(findings) + "\n", encoding="utf-8")
    cases = [case for facts in findings.facts.values() for case in facts]
    columns = {name: describe_center(facts) for name, facts in findings.facts.items()}
    write_table(out / "table1.csv", columns)
    write_cases(out / "cases.csv", cases)
    write_lesions(out / "lesions.csv", cases)
    kinds = {
        "refused": findings.refused,
        "dropped": findings.dropped,
        "odd": findings.odd,
        "tiny lesion": findings.tiny,
    }
    rows = [(kind, text) for kind, sentences in kinds.items() for text in sentences]
    write_csv(out / "problems.csv", ["kind", "problem"], rows)
    draw_check(findings.facts, out / "check.png")


def _named(center: Center, error: DataError) -> Iterator[str]:
    """Problems of a whole center, each beginning with its name."""
    for problem in error.problems:
        yield problem if problem.startswith(f"{center.name}: ") else f"{center.name}: {problem}"


def _unlabeled(facts: list[CaseFacts]) -> Iterator[str]:
    if any(case.labeled for case in facts):
        for case in facts:
            if not case.labeled:
                yield (
                    f"{case.center}/{case.case_id}: has no label, other cases of the center have; "
                    "add the label or list the case under exclude"
                )


def _survey(job: tuple[Center, CaseFiles]) -> CaseFacts | DataError:
    return survey_case(*job)


def main(given: Sequence[str] | None = None) -> int:
    """Parse, check, print, write; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("centers", type=Path, nargs="?", default=Path("centers.toml"))
    parser.add_argument("--out", type=Path, help="folder to write to (default: check, beside it)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    arguments = parser.parse_args(given)
    out = arguments.centers.parent / "check" if arguments.out is None else arguments.out
    try:
        centers = load_centers(arguments.centers)
        findings = check_centers(centers, arguments.workers)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(format_findings(findings))
    write_findings(findings, out)
    print(f"\nwritten to {out}")
    return 1 if findings.refused else 0


if __name__ == "__main__":
    sys.exit(main())
