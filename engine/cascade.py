"""The four stages in order on one case in memory: no run folder, no centers.toml, no cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from data.case import Case, Triple
from data.prepare.prepared_case import (
    PreparedCase,
    PrepareSettings,
    prepare_case,
    restore_mask,
    restore_prob,
    to_prepared_mask,
)
from data.roi import Box, bounding_box
from engine.crops import NOTHING, Found
from engine.inference import Predictor, PreparedPrediction, predict_prepared
from utils.postprocess import keep_components
from utils.stages import NONE, PANCREAS, STAGES, Stage

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
        return restore_prob(self.on_prepared.crop_prob, self.prepared, self.box)

    def highest_in(self, box: Box) -> float:
        """The highest probability in a box of the prepared grid; 0 where the crop was elsewhere."""
        crop = self.on_prepared.box
        inside = tuple(
            slice(max(low - start, 0), max(high - start, 0))
            for low, high, start in zip(box.start, box.stop, crop.start, strict=True)
        )
        return float(self.on_prepared.crop_prob[inside].max(initial=0.0))

    def highest_at(self, places: tuple[np.ndarray, ...]) -> float:
        """The highest probability that the network gave near voxels of the case's own grid.

        `places`: their indices (z, y, x); for each it is the nearest voxel of the prepared grid.
        """
        item, crop = self.prepared, self.on_prepared
        nearest = []
        for axis, index in enumerate(places):
            step = item.original_spacing[axis] / item.spacing[axis]
            middle = (index + 0.5 - item.original_shape[axis] / 2) * step + item.shape[axis] / 2
            last = crop.crop_prob.shape[axis] - 1
            nearest.append(np.clip(middle.astype(int) - crop.box.start[axis], 0, last))
        return float(crop.crop_prob[tuple(nearest)].max(initial=0.0))


def segment(
    case: Case,
    predictors: Mapping[str, Predictor],
    *,
    roi: np.ndarray | None = None,
    thresholds: Mapping[str, float] = MappingProxyType({}),
    after_stage: Callable[[Prediction], None] | None = None,
) -> dict[str, Prediction]:
    """Predict a case with the given stages, in the order of Fig. 4; a result for each stage.

    `predictors`: by stage name; a stage needs the one before it. Each is looked up when it is
    needed and not held, so that a mapping may keep one on the device (`StagePredictors`). `roi`:
    mask of the pancreas on the case's canonical grid, which stands for the pancreas stages: those
    are not run then. `thresholds`: by stage, the probability above which a voxel is foreground;
    else the stage's own. `after_stage`: is called with each result.
    A stage whose predecessor found nothing crops around what the one before that found, at last it
    sees the central window; the result's `roi.fallback` says so. A label of the case is not looked
    at. Raises ValueError for stages that do not fit together and for an ROI without a voxel or of
    another shape.
    """
    order = order_stages([*predictors], thresholds, has_roi=roi is not None)
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
        if predictors[name].stage.name != name:
            raise ValueError(
                f"the predictor given for {name} was trained as {predictors[name].stage.name}"
            )
        spacing = predictors[name].config.spacing
        if spacing not in prepared:
            prepared[spacing] = prepare_case(image, PrepareSettings(spacing=spacing))
        earlier = find_earlier(masks, prepared[spacing])
        found[name] = segment_stage(
            predictors[name],
            prepared[spacing],
            earlier,
            thresholds.get(name),
            find_more(predictors[name].stage, masks, prepared[spacing]),
        )
        masks.insert(0, (name, found[name].mask))
        if after_stage is not None:
            after_stage(found[name])
    return found


def find_earlier(masks: Sequence[tuple[str, np.ndarray]], prepared: PreparedCase) -> list[Earlier]:
    """The boxes of earlier masks, nearest stage first, up to the first that holds anything."""
    earlier: list[Earlier] = []
    for source, mask in masks:
        earlier.append((source, mask_box(mask, prepared)))
        if earlier[-1][1] is not None:
            break
    return earlier


def find_more(
    stage: Stage, masks: Sequence[tuple[str, np.ndarray]], prepared: PreparedCase
) -> Found:
    """What more the stage's settings read of earlier masks, nearest stage first (`Found`)."""
    pancreas = None
    if stage.crop_middle == PANCREAS:
        of_pancreas = [(source, mask) for source, mask in masks if not _is_of_tumor(source)]
        pancreas = next((box for _, box in find_earlier(of_pancreas, prepared) if box), None)
    if stage.second_channel == NONE:
        return Found(pancreas)
    return Found(pancreas, to_prepared_mask(masks[0][1], prepared))


def _is_of_tumor(source: str) -> bool:
    return source in STAGES and STAGES[source].target == "tumor"


def segment_stage(
    predictor: Predictor,
    prepared: PreparedCase,
    earlier: Sequence[Earlier],
    threshold: float | None = None,
    found: Found = NOTHING,
) -> Prediction:
    """One stage of the cascade: crop around what was found before, predict, bring back, threshold.

    `earlier`: the masks of the stages before, the nearest first, as `mask_box` gives them.
    `threshold`: None is the stage's own. `found`: what more its settings read, as `find_more`
    gives it.
    """
    started = time.monotonic()
    threshold = predictor.stage.threshold if threshold is None else threshold
    roi = choose_roi(predictor.stage, earlier)
    on_grid = predict_prepared(predictor, prepared.image_hu, roi.box, threshold, found)
    mask = keep_components(restore_mask(on_grid.crop_prob, prepared, threshold, on_grid.box))
    return Prediction(
        stage=predictor.stage.name,
        target=predictor.stage.target,
        mask=mask,
        roi=roi,
        box=on_grid.box,
        rounds=on_grid.rounds,
        windows=on_grid.windows,
        precision=predictor.precision,
        threshold=threshold,
        seconds=time.monotonic() - started,
        prepared=prepared,
        on_prepared=on_grid,
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
    stages: Sequence[str], thresholds: Mapping[str, float], *, has_roi: bool
) -> list[str]:
    """The stages to run, in order. Raises ValueError where they cannot be, with what to do.

    `stages`: those that a predictor is there for. `has_roi`: the pancreas is given.
    """
    unknown = sorted({*stages, *thresholds} - set(STAGES))
    if unknown:
        raise ValueError(f"unknown stage {', '.join(unknown)}; choose from {', '.join(STAGES)}")
    order = [
        name
        for name, stage in STAGES.items()
        if name in stages and not (has_roi and stage.target == "pancreas")
    ]
    if not order:
        raise ValueError("no stage to run; give a predictor of at least one")
    for name in order:
        previous = STAGES[name].previous
        replaced = has_roi and STAGES[name].roi == "pancreas"
        if previous is not None and previous not in order and not replaced:
            raise ValueError(f"{name} crops around what {previous} finds; give its predictor too")
    return order
