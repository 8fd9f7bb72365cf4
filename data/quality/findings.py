"""The check of all centers: every case read or remembered, and all that is wrong with any of them.

One bad case, or one center that cannot be listed, is a problem of its own and ends nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.case import Center, DataError
from data.prepare.duplicates import Duplicate, find_duplicates, judge_duplicates
from data.prepare.parallel import run_jobs
from data.quality.facts_cache import facts_of
from data.quality.picture import draw_check
from data.quality.survey import TINY_LESION_MM3, CaseFacts
from data.quality.table1 import (
    describe_center,
    format_table,
    write_cases,
    write_csv,
    write_lesions,
    write_table,
)
from data.readers import label_map_of, list_center
from data.readers.files import CaseFiles
from data.readers.listing import Listing
from utils.files import write_text

MAX_LEFT_OUT = 10  # of a center, printed; problems.csv has all


@dataclass(frozen=True)
class CheckSettings:
    """How to check. `case_ids`: only these (empty: all). `cache`: None reads every case again."""

    out: Path
    cache: Path | None = None
    workers: int = 1
    case_ids: tuple[str, ...] = ()

    def picture(self, center: str, case_id: str) -> Path:
        """Where the picture of a case with a warning goes."""
        return self.out / f"{center}_{case_id}.png"


@dataclass
class Findings:
    """What the check found: figures of every readable case, and sentences of several kinds."""

    facts: dict[str, list[CaseFacts]] = field(default_factory=dict)
    listings: dict[str, Listing] = field(default_factory=dict)
    duplicates: list[Duplicate] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tiny: list[str] = field(default_factory=list)


def check_centers(centers: Mapping[str, Center], settings: CheckSettings) -> Findings:
    """Read every case of every center and collect what is wrong with any of them.

    Raises `DataError` where a case of `settings.case_ids` is in no center, and where a worker
    process was killed.
    """
    findings = Findings(facts={name: [] for name in centers})
    jobs: list[_Job] = []
    for center in centers.values():
        listing = _list_center(center, findings)
        if listing is not None:
            findings.listings[center.name] = listing
            jobs += [_Job(center, files, settings) for files in listing.cases]
        for case_id in center.exclude:
            settings.picture(center.name, case_id).unlink(missing_ok=True)
    jobs = _chosen(jobs, settings.case_ids)
    for found in run_jobs(_check_case, jobs, settings.workers, "checking"):
        if isinstance(found, DataError):
            findings.refused += found.problems
        else:
            findings.facts[found.center].append(found)
    for center in centers.values():
        findings.refused += _unlabeled(findings.facts[center.name])
    _note_duplicates(centers, findings)
    for case in (case for name in centers for case in findings.facts[name]):
        where = f"{case.center}/{case.case_id}"
        findings.warnings += [f"{where}: {warning}" for warning in case.warnings]
        findings.tiny += [
            f"{where}: {lesion.volume_mm3:.1f} mm3 in the {lesion.part} third"
            for lesion in case.lesions
            if lesion.volume_mm3 < TINY_LESION_MM3
        ]
    return findings


@dataclass(frozen=True)
class _Job:
    center: Center
    files: CaseFiles
    settings: CheckSettings


def _check_case(job: _Job) -> CaseFacts | DataError:
    picture = job.settings.picture(job.center.name, job.files.case_id)
    return facts_of(job.center, job.files, job.settings.cache, picture)


def _list_center(center: Center, findings: Findings) -> Listing | None:
    """The files of one center; None, and a problem, where they cannot be listed."""
    try:
        listing = list_center(center)
        if any(case.label is not None for case in listing.cases):
            label_map_of(center)  # once for the center, instead of once per case
    except DataError as error:
        findings.refused += _named(center, error)
        return None
    except Exception as error:  # whatever a library raises about one center's files is its problem
        reason = " ".join(str(error).split())
        findings.refused.append(
            f"{center.name}: cannot be listed ({type(error).__name__}: {reason}); look at the "
            f"files of {center.path}"
        )
        return None
    return listing


def _chosen(jobs: list[_Job], case_ids: Collection[str]) -> list[_Job]:
    """The jobs of the cases that were asked for."""
    missing = set(case_ids) - {job.files.case_id for job in jobs}
    if missing:
        raise DataError(f"no center has a case {', '.join(sorted(missing))}; correct --case")
    return [job for job in jobs if not case_ids or job.files.case_id in case_ids]


def _note_duplicates(centers: Mapping[str, Center], findings: Findings) -> None:
    """Find scans that are listed twice, and leave out those that their center drops."""
    cases = [case for name in centers for case in findings.facts[name]]
    dropping = {name for name, center in centers.items() if center.drop_duplicates}
    findings.duplicates = find_duplicates([case.signature for case in cases])
    dropped, problems = judge_duplicates(findings.duplicates, dropping)
    findings.refused += problems
    for (name, case_id), other in dropped.items():
        findings.dropped.append(f"{name}/{case_id}: is left out, the same scan as {other}")
        findings.facts[name] = [c for c in findings.facts[name] if c.case_id != case_id]


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


def format_findings(findings: Findings) -> str:
    """Everything as text: what was found, Table I, then each kind of sentence with its count."""
    columns = {name: describe_center(facts) for name, facts in findings.facts.items()}
    parts = [*_format_listings(findings.listings), "", "Table I", format_table(columns)]
    kinds = {
        "refused": findings.refused,
        "left out, as drop_duplicates says": findings.dropped,
        "warnings": findings.warnings,
        f"lesions under {TINY_LESION_MM3:.0f} mm3": findings.tiny,
    }
    for title, sentences in kinds.items():
        if sentences or title == "refused":
            parts += ["", f"{title}: {len(sentences)}", *(f"  {text}" for text in sentences)]
    return "\n".join(parts)


def _format_listings(listings: Mapping[str, Listing]) -> Iterator[str]:
    for name, listing in listings.items():
        yield (
            f"{name}: {listing.images} images and {listing.labels} labels found, "
            f"{listing.paired} paired, {len(listing.left_out)} left out"
        )
        for path, reason in listing.left_out[:MAX_LEFT_OUT]:
            yield f"  {path}: {reason}"
        if len(listing.left_out) > MAX_LEFT_OUT:
            yield f"  and {len(listing.left_out) - MAX_LEFT_OUT} more: see problems.csv"


def write_findings(findings: Findings, out: Path) -> None:
    """All files of the check but the cases' pictures, in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "check.txt", format_findings(findings) + "\n")
    cases = [case for facts in findings.facts.values() for case in facts]
    columns = {name: describe_center(facts) for name, facts in findings.facts.items()}
    write_table(out / "table1.csv", columns)
    write_cases(out / "cases.csv", cases)
    write_lesions(out / "lesions.csv", cases)
    kinds = {
        "refused": findings.refused,
        "dropped": findings.dropped,
        "left out": [
            f"{name}: {path}: {reason}"
            for name, listing in findings.listings.items()
            for path, reason in listing.left_out
        ],
        "warning": findings.warnings,
        "tiny lesion": findings.tiny,
    }
    rows = [(kind, text) for kind, sentences in kinds.items() for text in sentences]
    write_csv(out / "problems.csv", ["kind", "problem"], rows)
    write_csv(
        out / "duplicates.csv",
        ["center_a", "case_a", "center_b", "case_b", "sign", "similarity"],
        [
            (
                *(pair.first.center, pair.first.case_id),
                *(pair.second.center, pair.second.case_id),
                *(pair.sign, f"{pair.similarity:.4f}"),
            )
            for pair in findings.duplicates
        ],
    )
    draw_check(findings.facts, out / "check.png")
