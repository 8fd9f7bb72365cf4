"""Prepared cases: one spacing, int16 HU and uint8 labels on disk, read by memory map.

The window to [-100, 240] HU and the crops are taken when a sample is read, since they cost nothing
there and differ between stages; resampling is what the cache saves (1.5 x 0.8 x 0.8 mm, Sec. IV-A).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from data.cache import content_key, read_meta, remove_leftovers, write_folder
from data.case import DataError
from data.centers import Center, list_all_cases
from data.doubles import find_doubles
from data.prepared import (
    PreparedCase,
    PrepareSettings,
    prepare_case,
    prepared_from_meta,
    resample_case,
    restore_mask,
    restore_prob,
    to_prepared_mask,
)
from data.progress import track
from data.readers import label_map_of, load_case
from data.readers.files import CaseFiles
from data.readers.header import estimate_voxels

__all__ = [
    "PrepareSettings",
    "PreparedCase",
    "drop_doubles",
    "prepare_case",
    "prepare_centers",
    "restore_mask",
    "restore_prob",
    "to_prepared_mask",
]

BYTES_PER_VOXEL = 3  # int16 image and uint8 label


def prepare_centers(
    centers: Iterable[Center], cache: Path, settings: PrepareSettings, workers: int = 1
) -> dict[str, list[PreparedCase]]:
    """Prepare every case of every center that the cache does not hold yet, then open them all.

    Says beforehand how much disk it needs, goes on where a killed run was, and refuses scans that
    are in the given centers twice: pass all centers of a split, the target too. A center with
    `drop_doubles` loses its copies instead. Raises one `DataError` with every case's problem; the
    other cases are kept.
    """
    centers = list(centers)
    files = list_all_cases({center.name: center for center in centers})
    jobs = [
        _Job(center, case, cache, settings) for center in centers for case in files[center.name]
    ]
    cache.mkdir(parents=True, exist_ok=True)
    remove_leftovers(cache)
    found = _run(_look_up, jobs, workers, "reading the cache")
    missing = [job for job, result in zip(jobs, found, strict=True) if result is None]
    if missing:
        _announce(missing, len(jobs), cache, settings)
        made = iter(_run(_prepare_job, missing, workers, "preparing"))
        found = [next(made) if result is None else result for result in found]
    problems = [p for result in found if isinstance(result, DataError) for p in result.problems]
    prepared: dict[str, list[PreparedCase]] = {center.name: [] for center in centers}
    for result in found:
        if isinstance(result, PreparedCase):
            prepared[result.center].append(result)
    problems += _unlabeled(prepared)
    prepared, double_problems = drop_doubles(prepared, {c.name: c for c in centers})
    if problems or double_problems:
        raise DataError([*problems, *double_problems])
    return prepared


@dataclass(frozen=True)
class _Job:
    center: Center
    files: CaseFiles
    cache: Path
    settings: PrepareSettings

    def place(self) -> tuple[Path, str]:
        """The folder of this case as its files and settings now are, and its key."""
        center = self.center
        rule = (center.reader, center.label_geometry, center.has_lesions)
        label_map = sorted(label_map_of(center).items()) if self.files.label else None
        key = content_key(self.files, self.cache, self.settings.spacing, rule, label_map)
        return self.cache / center.name / f"{self.files.case_id}-{key}", key


_Result = PreparedCase | DataError | None


def _look_up(job: _Job) -> _Result:
    """The cached case, None where there is none, or why its files cannot be read."""
    name = f"{job.center.name}/{job.files.case_id}"
    if job.files.problem is not None:
        return DataError(f"{name}: {job.files.problem}")
    try:
        folder, key = job.place()
    except OSError as error:
        return DataError(f"{name}: {error.filename} cannot be read ({error.strerror}); restore it")
    except DataError as error:
        return error
    meta = read_meta(folder, key)
    return None if meta is None else prepared_from_meta(meta, folder, job.files)


def _prepare_job(job: _Job) -> _Result:
    """Read, resample and store one case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes are kept in meta.json
        try:
            case = load_case(job.center, job.files)
            folder, key = job.place()
            meta, arrays = resample_case(case, job.settings)
            write_folder(folder, arrays, meta, key)
        except DataError as error:
            return error
        except OSError as error:
            return DataError(f"{job.center.name}/{job.files.case_id}: {error}; see to the disk")
    result = _look_up(job)
    if result is None:
        return DataError(f"{folder}: changed while it was written; run again")
    return result


def _run(function: Any, jobs: list[_Job], workers: int, text: str) -> list[_Result]:
    """`function` of each job, in order, in as many processes as asked for."""
    if workers <= 1 or len(jobs) <= 1:
        return list(track(map(function, jobs), len(jobs), text))
    results: dict[int, _Result] = {}
    context = get_context("spawn")  # a fork of a process with threads can hang
    with ProcessPoolExecutor(workers, context, _one_thread) as pool:
        futures = {pool.submit(function, job): number for number, job in enumerate(jobs)}
        try:
            for future in track(as_completed(futures), len(jobs), text):
                results[futures[future]] = future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process was killed, most likely for want of memory; run again with "
                "fewer workers: cases that are done are kept"
            ) from error
    return [results[number] for number in range(len(jobs))]


def _one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _announce(jobs: list[_Job], total: int, cache: Path, settings: PrepareSettings) -> None:
    """Say what will be made and what disk it takes. Raises `DataError` where it cannot fit."""
    needed = BYTES_PER_VOXEL * sum(
        estimate_voxels(job.files.image, settings.spacing) for job in jobs
    )
    free = shutil.disk_usage(cache).free
    print(
        f"preparing {len(jobs)} of {total} cases: about {needed / 2**30:.2f} GiB in {cache} "
        f"({free / 2**30:.1f} GiB free)",
        flush=True,
    )
    if needed > free:
        raise DataError(f"{cache}: too little space on its disk; give another folder for the cache")


def _unlabeled(prepared: Mapping[str, list[PreparedCase]]) -> Iterator[str]:
    """A center has labels for all of its cases or for none (prediction only)."""
    for name, cases in prepared.items():
        if any(case.has_label for case in cases):
            for case in cases:
                if not case.has_label:
                    yield (
                        f"{name}/{case.case_id}: has no label, other cases of the center have; "
                        "add the label or list the case under exclude"
                    )


def drop_doubles(
    prepared: dict[str, list[PreparedCase]], centers: Mapping[str, Center]
) -> tuple[dict[str, list[PreparedCase]], list[str]]:
    """`prepared` without the copies that centers drop, and a problem for each other pair."""
    dropped, problems = set(), []
    cases = [case for name in centers for case in prepared[name]]
    for first, second in find_doubles(cases):
        names = [f"{case.center}/{case.case_id}" for case in (first, second)]
        droppable = [c for c in (second, first) if centers[c.center].drop_doubles]
        if droppable:
            dropped.add((droppable[0].center, droppable[0].case_id))
        else:
            problems.append(
                f"{names[0]} and {names[1]} are the same scan: list one of them under exclude, or "
                "set drop_doubles = true for the center that shall lose its copies"
            )
    kept = {
        name: [case for case in cases_ if (name, case.case_id) not in dropped]
        for name, cases_ in prepared.items()
    }
    return kept, problems
