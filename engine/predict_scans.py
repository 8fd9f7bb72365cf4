"""New CTs, in their order: read, segment, write; what is done is kept, what fails is told.

With the networks on a GPU the next scan is read, and the last one written, while one is segmented.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data.case import Case
from data.prepare.data_files import files_of
from data.prepare.one_case import case_error
from data.readers.given_mask import read_given_mask
from data.readers.scans import Scan, load_scan
from engine.cascade import Prediction, order_stages, segment
from engine.pipeline import run_pipeline
from engine.run_folders import environment
from engine.scan_measures import trained_before
from engine.scan_output import (
    SEGMENTATION,
    OutputOptions,
    ScanTable,
    Stamp,
    read_manifest,
    remove_outputs,
    repairs_of,
    write_manifest,
    write_outputs,
)
from engine.scan_segmentation import NO_DICOM, is_dicom, write_segmentation
from engine.stage_predictors import StagePredictors
from utils.device import peak_memory_mib, reset_peak_memory
from utils.files import sha256_of

Ended = TypeVar("Ended")
Failures = dict[str, str]  # case id -> cause, one line


@dataclass(frozen=True)
class ReadOptions:
    """How scans are read. `series`: of several in a DICOM folder, see `choose_series`."""

    series: str | None = None
    repair: bool = False
    pancreas_label: int | None = None


@dataclass(frozen=True)
class Work:
    """What all scans of one call share."""

    out: Path
    predictors: StagePredictors
    stamp: Stamp
    thresholds: Mapping[str, float] = field(default_factory=dict)
    read: ReadOptions = field(default_factory=ReadOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    command: str = ""
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Opened:
    """A scan as it was read. `request`: see `describe_request`. `pancreas`: the given mask."""

    request: Mapping[str, Any]
    case: Case
    pancreas: np.ndarray | None
    notes: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class Segmented:
    """What was found of a scan, by stage. `facts`: for its measures and its manifest."""

    opened: Opened
    found: Mapping[str, Prediction]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """The outputs of a scan that are there from an earlier call, and still true."""

    outputs: Sequence[str]


@dataclass(frozen=True)
class Failed:
    """Why a scan has no outputs, in one line."""

    cause: str


def hash_checkpoints(checkpoints: Mapping[str, Path]) -> dict[str, str]:
    """sha256 by stage."""
    return {stage: sha256_of(path) for stage, path in checkpoints.items()}


def predict_scans(work: Work, scans: Sequence[Scan]) -> Failures:
    """Predict every scan into `out/<case>/`; which failed, and why. One never ends the others.

    A scan whose outputs are there, made of the same input by the same checkpoints and options, is
    skipped. Raises ValueError where the stages do not fit together for any scan, and what
    `load_predictor` does where a checkpoint cannot be read.
    """
    any_given = any(scan.pancreas is not None for scan in scans)
    for stage in order_stages([*work.predictors], work.thresholds, has_roi=any_given):
        work.predictors.on_host(stage)
    failures: Failures = {}
    table = ScanTable(work.out, [scan.case_id for scan in scans])
    places = {s.case_id: f"[{n}/{len(scans)}] {s.case_id}" for n, s in enumerate(scans, 1)}

    def read(scan: Scan) -> Opened | Kept | Failed:
        return _attempt(scan, lambda: open_scan(work, scan))

    def predict(scan: Scan, opened: Opened | Kept | Failed) -> Segmented | Kept | Failed:
        if not isinstance(opened, Opened):
            return opened
        return _attempt(scan, lambda: segment_scan(work, scan, places[scan.case_id], opened))

    def write(scan: Scan, found: Segmented | Kept | Failed) -> None:
        place = places[scan.case_id]
        ended: Kept | Failed | None
        if isinstance(found, Failed):
            ended = found
        else:
            ended = _attempt(scan, lambda: write_scan(work, scan, place, found))
        if isinstance(ended, Kept):
            table.keep(scan.case_id)
            work.say(f"{place}: is done already")
            return
        table.replace(scan.case_id)
        if isinstance(ended, Failed):
            failures[scan.case_id] = ended.cause
            if len(scans) > 1:
                work.say(f"{place}: FAILED: {ended.cause}")

    # On a CPU the network takes nearly all the time, and its memory is what is short.
    run_pipeline(scans, read, predict, write, overlap=work.predictors.device.type != "cpu")
    table.finish()
    return failures


def _attempt(scan: Scan, step: Callable[[], Ended]) -> Ended | Failed:
    try:
        return step()
    except Exception as error:
        return Failed(_cause(scan, error))


def _cause(scan: Scan, error: Exception) -> str:
    """One line, whatever was raised."""
    known = isinstance(error, (ValueError, FileNotFoundError))
    return " ".join(str(error if known else case_error(scan.case_id, error)).split())


def open_scan(work: Work, scan: Scan) -> Opened | Kept:
    """Read a scan, unless its outputs are there; those of another request are removed."""
    folder = work.out / scan.case_id
    if scan.problem is not None:
        remove_outputs(folder)
        raise ValueError(scan.problem)
    request = describe_request(work, scan)
    before = read_manifest(folder)
    if before.get("request") == request and (work.read.repair or not before["repaired"]):
        return Kept(before["outputs"])
    remove_outputs(folder)
    started = time.monotonic()
    case, pancreas, notes = read_scan(work, scan)
    if work.output.dicom_seg and not is_dicom(scan):
        notes.append(NO_DICOM)
    return Opened(request, case, pancreas, notes, time.monotonic() - started)


def segment_scan(work: Work, scan: Scan, place: str, opened: Opened) -> Segmented:
    """All stages of one scan; each is told when it has ended."""
    started, case = time.monotonic(), opened.case
    reset_peak_memory(work.predictors.device)
    for note in opened.notes:
        work.say(f"{place}: {note}")
    found = segment(
        case,
        work.predictors,
        roi=opened.pancreas,
        thresholds=work.thresholds,
        after_stage=lambda one: work.say(f"{place}: {describe_prediction(case, one)}"),
    )
    notes = list(opened.notes)
    for stage, prediction in found.items():
        notes += trained_before(prediction.prepared, stage, work.predictors.trained_on(stage))
    facts: dict[str, Any] = {
        "input": str(scan.image),
        "pancreas": None if scan.pancreas is None else str(scan.pancreas),
        "warnings": notes,
        "seconds": round(opened.seconds + time.monotonic() - started, 3),
        "peak_memory_mib": round(peak_memory_mib(work.predictors.device)),
    }
    return Segmented(opened, found, facts)


def write_scan(work: Work, scan: Scan, place: str, found: Segmented | Kept) -> Kept | None:
    """Write what was found of a scan; of one that is kept what it lacks. None: something was."""
    if isinstance(found, Kept):
        return complete_outputs(work, scan, place, found)
    write_segmented(work, scan, found)
    return None


def write_segmented(work: Work, scan: Scan, segmented: Segmented) -> None:
    """All outputs of one scan, and at last its manifest."""
    folder, case, found = work.out / scan.case_id, segmented.opened.case, segmented.found
    names = write_outputs(case, found, folder, work.stamp, work.output, segmented.facts)
    manifest = {
        **work.stamp.facts(),
        "command": work.command,
        "checkpoints": {stage: str(work.predictors.checkpoints[stage]) for stage in found},
        **segmented.facts,
        "repaired": repairs_of(case),
        "outputs": names,
        "request": segmented.opened.request,
        "environment": environment(),
    }
    write_manifest(folder, manifest)
    if work.output.dicom_seg and is_dicom(scan):
        write_segmentation(folder, scan, work.read.series, work.read.pancreas_label)


def complete_outputs(work: Work, scan: Scan, place: str, kept: Kept) -> Kept | None:
    """What is kept, where it lacks nothing; else its DICOM SEG is made of the masks."""
    if not work.output.dicom_seg or SEGMENTATION in kept.outputs:
        return kept
    if not is_dicom(scan):
        work.say(f"{place}: {NO_DICOM}")
        return kept
    write_segmentation(work.out / scan.case_id, scan, work.read.series, work.read.pancreas_label)
    work.say(f"{place}: {SEGMENTATION} is made of the masks that are there")
    return None


def describe_request(work: Work, scan: Scan) -> dict[str, Any]:
    """What the outputs of a scan depend on; where it is the same, they are kept.

    Raises OSError where a file of the scan cannot be read.
    """
    masked = scan.pancreas is not None
    out = work.out.resolve()
    files = [path for path in files_of(scan.image) if out not in path.resolve().parents]
    return {
        "software": work.stamp.software,
        "checkpoints_sha256": dict(work.stamp.checkpoints),
        "input_sha256": sha256_of(*files),
        "pancreas_sha256": sha256_of(scan.pancreas) if scan.pancreas is not None else None,
        "pancreas_label": work.read.pancreas_label if masked else None,
        "series": work.read.series,
        "thresholds": dict(work.thresholds),
        "window_voxels": work.predictors.window_voxels,
        "arithmetic": work.predictors.precision,
        "format": work.output.suffix,
        "probabilities": work.output.probabilities,
    }


def read_scan(work: Work, scan: Scan) -> tuple[Case, np.ndarray | None, list[str]]:
    """The CT, the given pancreas on its voxels if there is one, and what was unusual in both."""
    case = load_scan(scan, work.read.series, work.read.repair)
    if scan.pancreas is None:
        return case, None, list(case.notes)
    mask, notes = read_given_mask(scan.pancreas, case.grid, work.read.pancreas_label)
    return case, mask, [*case.notes, *notes]


def describe_prediction(case: Case, found: Prediction) -> str:
    """One line on a stage that has just ended."""
    volume_ml = float(np.count_nonzero(found.mask) * np.prod(case.spacing) / 1000)
    fallback = f", cropped around the {found.roi.fallback}" if found.roi.fallback else ""
    return f"{found.stage}: {volume_ml:.2f} ml in {found.seconds:.1f} s{fallback}"
