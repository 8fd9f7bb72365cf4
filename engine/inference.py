"""The only inference path: mirroring, windows, threshold, the recurrent fine stage (Sec. III-D)."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from data.dataset import NETWORK_MULTIPLE, central_window
from data.intensity import PAD_HU, window_hu
from data.roi import Box, bounding_box, crop, expand_box, pad_to_multiple, paste
from data.splits import CaseName
from engine.checkpointing import load_checkpoint
from engine.run_folders import Run
from methods import Method, build_method, config_from_plain
from utils.config import Config
from utils.device import autocast, select_device, select_precision
from utils.metrics import dsc
from utils.postprocess import keep_components
from utils.stages import Stage

WINDOW_OVERLAP = 0.25
MIN_WINDOW_VOXELS = 32**3  # below this a GPU that is out of memory cannot be helped

log = logging.getLogger(__name__)


@dataclass
class Model:
    """A trained stage, ready to predict."""

    config: Config
    method: Method
    device: torch.device
    precision: str
    window_voxels: int  # largest input that goes through the network at once
    threshold: float
    train_cases: frozenset[CaseName] = frozenset()
    split_hash: str = ""

    @property
    def stage(self) -> Stage:
        """The stage as it was trained."""
        return self.config.stage


@dataclass(frozen=True)
class Prediction:
    """Probability of the target on the prepared grid, float32 (z, y, x), and how it came about."""

    prob: np.ndarray
    box: Box
    rounds: int


def load_model(run: Run, device: str = "auto", precision: str = "auto") -> Model:
    """The model of a finished run; its settings come from the checkpoint, never from flags."""
    device_ = select_device(device)
    content = load_checkpoint(run.checkpoint, device_)
    config = config_from_plain(content["config"])
    method = build_method(config, content["split"]["sources"]).to(device_)
    method.load_state_dict(content["method"])
    method.eval()
    method.auxiliary = None  # it only trains
    stage = config.stage
    return Model(
        config,
        method,
        device_,
        select_precision(precision, device_),
        stage.max_voxels,
        stage.threshold,
        frozenset((center, case_id) for center, case_id in content["split"]["train_cases"]),
        content["split_hash"],
    )


def predict_case(model: Model, image_hu: np.ndarray, around: Box | None) -> Prediction:
    """Predict one prepared case (int16 HU, (z, y, x)) in the crop around the box `around`.

    None stands for the central window of the whole volume. A stage with several rounds crops
    around its own result and predicts again, until two rounds agree (Sec. III-D, its ref. [23]).
    """
    stage = model.stage
    box = input_box(stage, image_hu.shape, around)
    before: np.ndarray | None = None
    for number in range(1, stage.rounds + 1):
        prob = paste(predict_box(model, image_hu, box), box, image_hu.shape)
        pred = keep_components(prob > model.threshold)
        agrees = before is not None and dsc(pred, before) >= 100 * stage.agreement_dice
        following = box
        if np.count_nonzero(pred) >= stage.min_round_voxels:
            following = input_box(stage, image_hu.shape, bounding_box(pred))
        if agrees or following == box or number == stage.rounds:
            break
        before, box = pred, following
    return Prediction(prob, box, number)


def input_box(stage: Stage, shape: tuple[int, ...], around: Box | None) -> Box:
    """The crop that the stage sees: `around` with its margin, or the central window."""
    if stage.roi == "volume" or around is None:
        return central_window(shape, stage.window_voxels)
    return expand_box(around, stage.margin_voxels, shape, multiple=NETWORK_MULTIPLE)


def predict_box(model: Model, image_hu: np.ndarray, box: Box) -> np.ndarray:
    """Probability in `box`, float32 of the box's shape: the mean over the 8 mirrored inputs."""
    stride = model.stage.stride
    padded, inner = pad_to_multiple(crop(image_hu, box), NETWORK_MULTIPLE * stride, value=PAD_HU)
    step = slice(None, None, stride)
    subsampled = torch.from_numpy(padded[step, step, step].copy())  # the cache is read-only
    image = window_hu(subsampled.to(model.device))[None, None]
    prob = predict_mirrored(model, image)
    for axis in (2, 3, 4):
        prob = upsample_axis(prob, axis, stride)
    return prob[0, 0].cpu().numpy()[inner.slices]


def predict_mirrored(model: Model, image: Tensor) -> Tensor:
    """Mean probability over all mirror combinations, (1, 1, z, y, x), in windows where too large.

    A GPU that runs out of memory is tried again with smaller windows.
    """
    mirrors = mirror_combinations(model.stage.mirror_axes)
    while True:
        try:
            with torch.inference_mode(), autocast(model.device, model.precision):
                prob = torch.zeros_like(image)
                for axes in mirrors:
                    mirrored = predict_windows(model, image.flip(axes))
                    prob += mirrored.flip(axes) / len(mirrors)
            return prob
        except torch.OutOfMemoryError:
            voxels = min(image[0, 0].numel(), model.window_voxels) // 2
            if voxels < MIN_WINDOW_VOXELS:
                raise
        torch.cuda.empty_cache()
        log.warning("out of GPU memory: going on with windows of %d voxels", voxels)
        model.window_voxels = voxels


def mirror_combinations(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every subset of the axes (z, y, x) = (0, 1, 2), as dimensions of (1, 1, z, y, x)."""
    subsets = (itertools.combinations(axes, n) for n in range(len(axes) + 1))
    return [tuple(axis + 2 for axis in subset) for of_size in subsets for subset in of_size]


def predict_windows(model: Model, image: Tensor) -> Tensor:
    """Probability of `image` at once, or by MONAI's sliding window above `window_voxels`."""

    def predict(window: Tensor) -> Tensor:
        return model.method.predict(window)

    shape = image.shape[2:]
    if image[0, 0].numel() <= model.window_voxels:
        return predict(image)
    prob = sliding_window_inference(
        image,
        roi_size=window_shape(tuple(shape), model.window_voxels),
        sw_batch_size=1,
        predictor=predict,
        overlap=WINDOW_OVERLAP,
        mode="gaussian",
    )
    assert isinstance(prob, Tensor)
    return prob


def window_shape(shape: tuple[int, ...], voxels: int) -> tuple[int, ...]:
    """Sides of multiples of 8, in about the proportions of `shape`, of at most `voxels` in all.

    >>> window_shape((64, 224, 224), 400_000)
    (24, 112, 112)
    """
    sides = list(shape)
    while np.prod(sides) > voxels and max(sides) > NETWORK_MULTIPLE:
        ratios = [s / n if s > NETWORK_MULTIPLE else 0.0 for s, n in zip(sides, shape, strict=True)]
        widest = int(np.argmax(ratios))
        sides[widest] -= NETWORK_MULTIPLE
    return tuple(sides)


def upsample_axis(prob: Tensor, axis: int, factor: int) -> Tensor:
    """Linear interpolation along one axis, so that element `factor * i` of the result is i's.

    The inverse of taking every `factor`-th voxel; behind the last one its value is kept.
    """
    if factor == 1:
        return prob
    following = torch.cat(
        [prob.narrow(axis, 1, prob.shape[axis] - 1), prob.narrow(axis, -1, 1)], axis
    )
    parts = [torch.lerp(prob, following, i / factor) for i in range(factor)]
    return torch.stack(parts, axis + 1).flatten(axis, axis + 1)
