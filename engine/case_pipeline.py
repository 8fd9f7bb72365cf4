"""The cases of one result: each is read, predicted, and then written and measured.

The three steps of neighboring cases overlap (`engine/pipeline.py`). Only the first reads of a case:
the masks of the stages before and the label, from disk; the image comes from the cache.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from data.case import Center
from data.dataset import target_mask
from data.prepare.prepared_case import PreparedCase, to_prepared_mask
from data.readers import load_label
from data.readers.masks import read_mask, write_mask
from data.roi import Box
from engine.cascade import Earlier, Prediction, Roi, choose_roi, mask_box, segment_stage
from engine.case_metrics import Row, append_case, measure_case, measure_findings
from engine.crops import NOTHING, Found, input_box
from engine.external import (
    ExternalPrediction,
    ExternalPredictor,
    measure_pancreas,
    segment_external,
)
from engine.inference import Predictor
from engine.pipeline import overlaps, run_pipeline
from engine.results import Result
from engine.threshold_selection import sweep_path, write_sweep
from utils.config import Evaluation
from utils.device import device_name, peak_memory_mib, reset_peak_memory
from utils.files import sha256_of
from utils.progress import Progress
from utils.stages import NONE, PANCREAS, Stage, stage_named

Boxes = Callable[[Result], Box | None]  # an earlier stage -> where its mask lies, read once

PANCREAS_LABEL = "pancreas label"
PAGE_VOXELS = 1024  # int16: half a page of the smallest size


@dataclass(frozen=True)
class Work:
    """What all cases of one result share."""

    evaluation: Evaluation
    predictor: Predictor | ExternalPredictor
    threshold: float
    center: Center
    result: Result


@dataclass(frozen=True)
class Inputs:
    """What is read of a case.

    `label`: uint8 on its own grid; None: it has none. `pancreas`: on the prepared grid, found
    before or the label's; None where there is none. `more`: what further settings of the stage
    read. `seconds`: reading the masks took.
    """

    item: PreparedCase
    earlier: Sequence[Earlier]
    label: np.ndarray | None = field(repr=False)
    pancreas: Box | None
    more: Found
    seconds: float


@dataclass(frozen=True)
class Predicted:
    """What is predicted of a case; `seconds`: from the masks before it to this."""

    inputs: Inputs
    prediction: Prediction | ExternalPrediction
    seconds: float
    peak_memory_mib: float


def evaluate_cases(work: Work, cases: Sequence[PreparedCase]) -> None:
    """Evaluate cases in their order; cases.csv grows by the row of each.

    Of an error of the machine the case is named; the cases before it are kept.
    """
    progress = Progress(f"{work.result.stage} on {work.center.name}", len(cases))

    def read(item: PreparedCase) -> Inputs:
        with _naming(work, item):
            return read_case(work, item)

    def predict(item: PreparedCase, inputs: Inputs) -> Predicted:
        with _naming(work, item):
            return predict_case(work, inputs)

    def write(item: PreparedCase, found: Predicted) -> None:
        with _naming(work, item):
            row = write_case(work, found)
            append_case(work.result.folder / "cases.csv", row)
        progress.advance({key: row[key] for key in ("dsc", "seconds") if key in row})

    run_pipeline(cases, read, predict, write, overlap=overlaps(work.predictor.device))
    progress.close()


@contextmanager
def _naming(work: Work, item: PreparedCase) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        error.add_note(
            f"it was {work.center.name}/{item.case_id}; what was finished before is kept in "
            f"{work.result.folder}, and the same command resumes"
        )
        raise


def read_case(work: Work, item: PreparedCase) -> Inputs:
    """What the two other steps need of a case.

    The memory maps that are opened here are this case's own, and closed behind it: those of `item`
    would stay open, and count as the process's memory, for as long as the list of all cases.
    """
    started = time.monotonic()
    item, predictor = replace(item, arrays={}), work.predictor
    boxes = functools.cache(
        lambda step: mask_box(read_mask(step.mask_path(item.case_id), item.grid), item)
    )
    earlier = find_earlier(work, item, boxes)
    pancreas, more = None, NOTHING
    if isinstance(predictor, Predictor):
        stage = predictor.stage
        if stage.target == "tumor":
            pancreas = find_pancreas(work, item, boxes)
        more = read_more(work, item, stage, pancreas)
        around = choose_roi(stage, earlier).box
        load_pages(item.image_hu, input_box(stage, item.shape, around, item.spacing, more.pancreas))
    seconds = time.monotonic() - started
    assert item.files is not None  # prepared from a center's files
    label = load_label(work.center, item.files, item.grid)
    return Inputs(item, earlier, label, pancreas, more, seconds)


def find_earlier(work: Work, item: PreparedCase, boxes: Boxes) -> list[Earlier]:
    """The masks of the stages before, nearest first, up to the first that holds anything.

    With ROIs from labels the last of them is the pancreas of the label. Raises ValueError where the
    case has none, and where a mask is not the one that was evaluated.
    """
    earlier: list[Earlier] = []
    step = work.result.previous
    while step is not None:
        step.check_mask(item.case_id)
        earlier.append((step.stage, boxes(step)))
        if earlier[-1][1] is not None:
            return earlier
        step = step.previous
    if work.evaluation.roi_source == "mask":
        if "pancreas" not in item.boxes:
            raise ValueError(f"{item.case_id}: --roi-source mask needs a pancreas label")
        earlier.append((PANCREAS_LABEL, item.boxes["pancreas"]))
    return earlier


def find_pancreas(work: Work, item: PreparedCase, boxes: Boxes) -> Box | None:
    """The pancreas that was found before, on the prepared grid, or that of the label.

    None where there is none: then the region of interest is the central window.
    """
    step = work.result.previous
    while step is not None:
        if stage_named(step.stage).target == "pancreas":
            box = boxes(step)
            if box is not None:
                return box
        step = step.previous
    return item.boxes.get("pancreas") if work.evaluation.roi_source == "mask" else None


def read_more(work: Work, item: PreparedCase, stage: Stage, pancreas: Box | None) -> Found:
    """What more the stage's settings read of the stages before it (`Found`)."""
    middle = pancreas if stage.crop_middle == PANCREAS else None
    before = work.result.previous
    if stage.second_channel == NONE or before is None:
        return Found(middle)
    before.check_mask(item.case_id)
    mask = read_mask(before.mask_path(item.case_id), item.grid)
    return Found(middle, to_prepared_mask(mask, item))


def load_pages(image_hu: np.ndarray, box: Box) -> None:
    """Have the disk bring the part of a memory map that will be used."""
    image_hu[box.slices][..., ::PAGE_VOXELS].max()


def predict_case(work: Work, inputs: Inputs) -> Predicted:
    """The stage, or the system that is not ours, on one case."""
    started, predictor = time.monotonic(), work.predictor
    reset_peak_memory(predictor.device)
    prediction: Prediction | ExternalPrediction
    if isinstance(predictor, ExternalPredictor):
        prediction = segment_external(predictor, inputs.item, work.center, inputs.earlier)
    else:
        prediction = segment_stage(
            predictor, inputs.item, inputs.earlier, work.threshold, inputs.more
        )
    seconds = inputs.seconds + time.monotonic() - started
    return Predicted(inputs, prediction, seconds, peak_memory_mib(predictor.device))


def write_case(work: Work, found: Predicted) -> Row:
    """Write the mask on the original grid, and measure it there; the row of cases.csv."""
    started = time.monotonic()
    item, label, prediction = found.inputs.item, found.inputs.label, found.prediction
    mask, target = prediction.mask, work.predictor.stage.target
    mask_path = work.result.mask_path(item.case_id)
    write_mask(mask_path, mask, item.grid)
    seconds = found.seconds + time.monotonic() - started
    truth = None if label is None else target_mask(label, target)
    if isinstance(prediction, ExternalPrediction):
        measure_pancreas(work.result.folder, item.case_id, prediction.labels, label, item)
        own: Row = {}
    else:
        own = measure_own(work, found.inputs, prediction, truth)
    return {
        **measure_case(mask, truth, item.original_spacing),
        **own,
        **measure_roi(item, target, prediction.box, prediction.roi),
        "case_id": item.case_id,
        "fallback": prediction.roi.fallback,
        "arithmetic": work.predictor.precision,
        "seconds": seconds,
        "device": device_name(work.predictor.device),
        "peak_memory_mib": found.peak_memory_mib,
        "mask_sha256": sha256_of(mask_path),
    }


def measure_own(
    work: Work, inputs: Inputs, prediction: Prediction, truth: np.ndarray | None
) -> Row:
    """What only a stage of ours has: its rounds and windows, and of a tumor the detection."""
    item = inputs.item
    if work.evaluation.cases == "heldout" and truth is not None:
        write_sweep(sweep_path(work.result.folder, item.case_id), prediction.prob, truth)
    row: Row = {
        "rounds": prediction.rounds,
        "threshold": work.threshold,
        "windows": prediction.windows,
    }
    if prediction.target != "tumor":
        return row
    region = input_box(work.predictor.stage, item.shape, inputs.pancreas, item.spacing)
    row["roi_max_prob"] = prediction.highest_in(region)
    highest = prediction.highest_at
    return row | measure_findings(prediction.mask, truth, item.original_spacing, highest)


def measure_roi(item: PreparedCase, organ: str, box: Box | None, roi: Roi) -> Row:
    """How much of the target lay in the box that was found before, and in it with its margin.

    `box`: with the margin; None: the whole image was seen, so there is nothing to tell.
    """
    if item.label is None or box is None:
        return {}
    target = target_mask(item.label, organ)
    row = {"roi_coverage_margin": coverage(target, box)}
    if roi.box is not None:
        row["roi_coverage"] = coverage(target, roi.box)
    return row


def coverage(mask: np.ndarray, box: Box) -> float:
    """Part of the mask's voxels (bool, (z, y, x)) that lie in `box`; 0 where there are none."""
    total = np.count_nonzero(mask)
    return float(np.count_nonzero(mask[box.slices]) / total) if total else 0.0
