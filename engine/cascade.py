"""The four stages in order on one case in memory: no run folder, no centers.toml, no cache."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from data.case import Case, Triple
from data.prepare.prepared_case import (
    PreparedCase,
    PrepareSettings,
    prepare_case,
    restore_prob,
    to_prepared_mask,
)
from data.roi import Box, bounding_box
from engine.inference import Predictor, PreparedPrediction, predict_prepared
from utils.postprocess import keep_components
from utils.stages import STAGES, Stage

WHOLE_VOLUME = "whole volume"
GIVEN_PANCREAS = "given pancreas"
# What an earlier mask is of, and its bounding box on the prepared grid; None where it is empty.
Earlier = tuple[str, Box | None]


@dataclass(frozen=True)
class Roi:
    """What a stage crops around, on the prepared grid; None: the central window.

    `fallback`: what gave the box where the stage before found nothing; "" where it did.
    """

    box: Box | None
    fallback: str = ""


@dataclass(frozen=True)
class Prediction:
    """What one stage found of one case.

    `target`: "pancreas" or "tumor". `mask`: bool (z, y, x) on the case's own canonical grid.
    `box`: the crop that the last round saw, in voxels of the prepared grid. `windows`: 0 where the
    crop went through the network at once. `precision`: the arithmetic. `seconds`: of this stage,
    from the prepared image to the mask.
    """

    stage: str
    target: str
    mask: np.ndarray = field(repr=False)
    roi: Roi
    box: Box
    rounds: int
    windows: int
    precision: str
    threshold: float
    seconds: float
    prepared: PreparedCase = field(repr=False)
    on_prepared: PreparedPrediction = field(repr=False)

    @property
    def prob(self) -> np.ndarray:
        """Probability of the target, float32 on the mask's grid; computed each time it is read."""
        return restore_prob(self.on_prepared.prob, self.prepared)


def segment(
    case: Case,
    predictors: Mapping[str, Predictor],
    *,
    roi: np.ndarray | None = None,
    thresholds: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Prediction]:
    """Predict a case with the given stages, in the order of Fig. 4; a result for each stage.

    `predictors`: by stage name; a stage needs the one before it. `roi`: mask of the pancreas on the
    case's canonical grid, which stands for the pancreas stages: those are not run then.
    `thresholds`: by stage, the probability above which a voxel is foreground; else the stage's own.
    A stage whose predecessor found nothing crops around what the one before that found, at last it
    sees the central window; the result's `roi.fallback` says so. A label of the case is not looked
    at. Raises ValueError for stages that do not fit together and for an ROI without a voxel or of
    another shape.
    """
    order = order_stages(predictors, thresholds, has_roi=roi is not None)
    if roi is not None and (roi.shape != case.image_hu.shape or not roi.any()):
        raise ValueError(
            f"{case.case_id}: the given pancreas has {np.count_nonzero(roi)} voxels in "
            f"{roi.shape}, the image is {case.image_hu.shape}; give a mask on the image's grid"
        )
    image = replace(case, label=None)
    prepared: dict[Triple, PreparedCase] = {}
    masks = [] if roi is None else [(GIVEN_PANCREAS, roi)]  # nearest stage first
    found: dict[str, Prediction] = {}
    for name in order:
        predictor = predictors[name]
        spacing = predictor.config.spacing
        if spacing not in prepared:
            prepared[spacing] = prepare_case(image, PrepareSettings(spacing=spacing))
        item = prepared[spacing]
        earlier: list[Earlier] = []
        for source, mask in masks:
            earlier.append((source, mask_box(mask, item)))
            if earlier[-1][1] is not None:
                break
        threshold = thresholds.get(name, predictor.stage.threshold)
        found[name] = segment_stage(predictor, item, earlier, threshold)
        masks.insert(0, (name, found[name].mask))
    return found


def segment_stage(
    predictor: Predictor, prepared: PreparedCase, earlier: Sequence[Earlier], threshold: float
) -> Prediction:
    """One stage of the cascade: crop around what was found before, predict, bring back, threshold.

    `earlier`: the masks of the stages before, the nearest first, as `mask_box` gives them.
    """
    started = time.monotonic()
    roi = choose_roi(predictor.stage, earlier)
    found = predict_prepared(predictor, prepared.image_hu, roi.box, threshold)
    mask = keep_components(restore_prob(found.prob, prepared) > threshold)
    return Prediction(
        stage=predictor.stage.name,
        target=predictor.stage.target,
        mask=mask,
        roi=roi,
        box=found.box,
        rounds=found.rounds,
        windows=found.windows,
        precision=predictor.precision,
        threshold=threshold,
        seconds=time.monotonic() - started,
        prepared=prepared,
        on_prepared=found,
    )


def mask_box(mask: np.ndarray, prepared: PreparedCase) -> Box | None:
    """Where a mask on the original canonical grid lies on the prepared one; None where empty."""
    return bounding_box(to_prepared_mask(mask, prepared))


def choose_roi(stage: Stage, earlier: Sequence[Earlier]) -> Roi:
    """The nearest earlier mask that holds anything, or the central window of the whole volume.

    ("Even where coarse segmentation fails completely, the fine model can compensate.")
    """
    if stage.roi == "volume":
        return Roi(None)
    for number, (source, box) in enumerate(earlier):
        if box is not None:
            return Roi(box, "" if number == 0 else source)
    return Roi(None, WHOLE_VOLUME)


def order_stages(
    predictors: Mapping[str, Predictor], thresholds: Mapping[str, float], *, has_roi: bool
) -> list[str]:
    """The stages to run, in order. Raises ValueError where they cannot be, with what to do."""
    unknown = sorted({*predictors, *thresholds} - set(STAGES))
    if unknown:
        raise ValueError(f"unknown stage {', '.join(unknown)}; choose from {', '.join(STAGES)}")
    for name, predictor in predictors.items():
        if predictor.stage.name != name:
            raise ValueError(
                f"the predictor given for {name} was trained as {predictor.stage.name}"
            )
    order = [
        name
        for name, stage in STAGES.items()
        if name in predictors and not (has_roi and stage.target == "pancreas")
    ]
    if not order:
        raise ValueError("no stage to run; give a predictor of at least one")
    for name in order:
        previous = STAGES[name].previous
        replaced = has_roi and STAGES[name].roi == "pancreas"
        if previous is not None and previous not in order and not replaced:
            raise ValueError(f"{name} crops around what {previous} finds; give its predictor too")
    return order
