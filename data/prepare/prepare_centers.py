"""Prepared cases: one spacing, int16 HU and uint8 labels on disk, read by memory map.

The window to [-100, 240] HU and the crops are taken when a sample is read, since they cost nothing
there and differ between stages; resampling is what the cache saves (1.5 x 0.8 x 0.8 mm, Sec. IV-A).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import Center, DataError
from data.prepare.cache import (
    content_key,
    read_meta,
    reading_rule,
    remove_unfinished,
    write_folder,
)
from data.prepare.duplicates import find_duplicates, judge_duplicates
from data.prepare.one_case import case_error
from data.prepare.parallel import run_jobs, track
from data.prepare.prepared_case import (
    PreparedCase,
    PrepareSettings,
    prepared_from_meta,
    resample_case,
)
from data.prepare.signature import signatures_of
from data.quality.label_check import judge_case
from data.readers import list_cases, load_case
from data.readers.files import CaseFiles
from data.readers.header import estimate_voxels
from data.splits import CaseName, list_all_cases

BYTES_PER_VOXEL = 3  # int16 image and uint8 label
MAX_WARNINGS = 20  # lines; the check lists all


def prepare_centers(
    centers: Iterable[Center], cache: Path, settings: PrepareSettings, workers: int = 1
) -> dict[str, list[PreparedCase]]:
    """Prepare every case of every center that the cache does not hold yet, then open them all.

    Says beforehand how much disk it needs, resumes after a killed run, prints the readers'
    warnings, and refuses scans that are listed twice in the given centers: pass all centers of a
    split, the target too. A center with `drop_duplicates` loses its copies instead. Raises one
    `DataError` with every case's problem; the other cases are kept.
    """
    centers = list(centers)
    files = list_all_cases({center.name: center for center in centers})
    jobs = [
        _Job(center, case, cache, settings) for center in centers for case in files[center.name]
    ]
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{cache}: cannot be made ({error.strerror}); give another folder for the cache"
        ) from error
    remove_unfinished(cache)
    with ThreadPoolExecutor(max(1, workers)) as pool:  # hashing files: threads are enough
        found = list(track(pool.map(_look_up, jobs), len(jobs), "reading the cache"))
    missing = [job for job, result in zip(jobs, found, strict=True) if result is None]
    if missing:
        _announce(missing, len(jobs), cache, settings)
        made = iter(run_jobs(_prepare_job, missing, workers, "preparing"))
        found = [next(made) if result is None else result for result in found]
    problems = [p for result in found if isinstance(result, DataError) for p in result.problems]
    cases = [result for result in found if isinstance(result, PreparedCase)]
    problems += _unlabeled(cases)
    dropping = {center.name for center in centers if center.drop_duplicates}
    dropped, duplicates = judge_duplicates(find_duplicates(signatures_of(cases)), dropping)
    if problems or duplicates:
        raise DataError(list(dict.fromkeys([*problems, *duplicates])))
    for (name, case_id), other in dropped.items():
        print(f"{name}/{case_id} is left out: it is the same scan as {other}", flush=True)
    kept = [case for case in cases if (case.center, case.case_id) not in dropped]
    _print_warnings(kept)
    return {c.name: [case for case in kept if case.center == c.name] for c in centers}


def content_keys(
    centers: Iterable[Center], cache: Path, settings: PrepareSettings
) -> dict[CaseName, str]:
    """What each case of the centers would be prepared from now: its `PreparedCase.content_key`.

    Nothing is prepared. A case whose files cannot be read has the key "".
    """
    keys: dict[CaseName, str] = {}
    for center in centers:
        for files in list_cases(center):
            job = _Job(center, files, cache, settings)
            try:
                keys[center.name, files.case_id] = "" if files.problem else job.place()[1]
            except Exception:  # of any library that reads a header: preparing names the problem
                keys[center.name, files.case_id] = ""
    return keys


@dataclass(frozen=True)
class _Job:
    center: Center
    files: CaseFiles
    cache: Path
    settings: PrepareSettings

    def place(self) -> tuple[Path, str]:
        """The folder of this case as its files and settings now are, and its key."""
        rule = reading_rule(self.center, self.files)
        key = content_key(self.files, self.cache, self.settings.spacing, rule)
        return self.cache / self.center.name / f"{self.files.case_id}-{key}", key


_Result = PreparedCase | DataError | None


def _look_up(job: _Job) -> _Result:
    """The cached case, None where there is none, or why its files cannot be read."""
    name = f"{job.center.name}/{job.files.case_id}"
    if job.files.problem is not None:
        return DataError(f"{name}: {job.files.problem}")
    try:
        folder, key = job.place()
    except Exception as error:  # of any library that reads a header: the case's own problem
        return case_error(name, error)
    meta = read_meta(folder, key)
    return None if meta is None else prepared_from_meta(meta, folder, job.files)


def _prepare_job(job: _Job) -> _Result:
    """Read, resample and store one case."""
    name = f"{job.center.name}/{job.files.case_id}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes are kept in meta.json
        try:
            case = load_case(job.center, job.files)
            case = replace(case, notes=(*case.notes, *judge_case(case)))
            folder, key = job.place()
            meta, arrays = resample_case(case, job.settings)
            write_folder(folder, arrays, meta, key)
        except Exception as error:  # of any library that reads it: the case's own problem
            return case_error(name, error)
    result = _look_up(job)
    if result is None:
        return DataError(f"{name}: {folder} changed while it was written; run again")
    return result


def _announce(jobs: list[_Job], total: int, cache: Path, settings: PrepareSettings) -> None:
    """Say what will be made and what disk it takes. Raises `DataError` where it cannot fit."""
    sizes = [estimate_voxels(job.files.image, settings.spacing) for job in jobs]
    needed = BYTES_PER_VOXEL * sum(sizes)
    free = shutil.disk_usage(cache).free
    print(
        f"preparing {len(jobs)} of {total} cases: about {needed / 2**30:.2f} GiB in {cache} "
        f"({free / 2**30:.1f} GiB free)",
        flush=True,
    )
    if needed > free:
        size, largest = max(zip(sizes, jobs, strict=True), key=lambda pair: pair[0])
        raise DataError(
            f"{cache}: too little space on its disk; give another folder for the cache (the "
            f"largest case is {largest.center.name}/{largest.files.case_id} with "
            f"{BYTES_PER_VOXEL * size / 2**30:.2f} GiB)"
        )


def _print_warnings(cases: Sequence[PreparedCase]) -> None:
    """What the readers noted, a line for each case, the first `MAX_WARNINGS` of them."""
    noted = [case for case in cases if case.notes]
    for case in noted[:MAX_WARNINGS]:
        print(f"warning: {case.signature.name}: {'; '.join(case.notes)}", flush=True)
    if len(noted) > MAX_WARNINGS:
        print(
            f"warning: {len(noted) - MAX_WARNINGS} more cases with warnings; see data/check.py",
            flush=True,
        )


def _unlabeled(cases: Sequence[PreparedCase]) -> Iterator[str]:
    """A center has labels for all of its cases or for none (prediction only)."""
    labeled = {case.center for case in cases if case.has_label}
    for case in cases:
        if case.center in labeled and not case.has_label:
            yield (
                f"{case.center}/{case.case_id}: has no label, other cases of the center have; "
                "add the label or list the case under exclude"
            )
