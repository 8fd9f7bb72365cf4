"""One stage on one prepared case: mirroring, windows, the recurrent fine stage (Sec. III-D)."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.intensity import PAD_HU, window_hu
from data.prepare.signature import Signature, from_plain
from data.prior import smooth_mask
from data.roi import STRIDE, Box, bounding_box, network_input, paste
from data.splits import Split, split_from_plain
from engine.batches import Batches, batch_size
from engine.checkpointing import load_checkpoint
from engine.crops import NOTHING, Found, has_settled, input_box
from engine.weight_average import predicting_weights
from methods import Method, MethodSettings, build_method, config_from_plain
from models.backbone import ResidualEncoderDecoder
from models.layers import keep_standardized
from models.released import RELEASED, load_released
from utils.config import Config
from utils.device import autocast, free_memory, is_out_of_memory, select_device, select_precision
from utils.errors import first_line
from utils.metrics import dsc
from utils.postprocess import keep_components
from utils.stages import NONE, STAGES, Stage

WINDOW_OVERLAP = 0.25
WINDOW_SIGMA = 0.125  # of the weights of a window's voxels, of its sides; MONAI's default
MIN_WINDOW_VOXELS = 32**3  # below this, memory that runs out cannot be helped

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """A trained stage, ready to predict; nothing in it changes while it does but `batches`.

    `window_voxels`: the largest input that goes through the network at once; None: any crop, and
    windows only where memory runs out. The threshold is an argument of what predicts.
    """

    config: Config
    method: Method
    device: torch.device
    precision: str
    window_voxels: int | None = None
    split: Split | None = None  # of its training; None: not known, of a released network
    signatures: Mapping[str, Sequence[Signature]] = field(default_factory=dict)  # trained scans
    batches: Batches = field(default_factory=Batches, compare=False)

    @property
    def stage(self) -> Stage:
        """The stage as it was trained."""
        return self.config.stage

    def predict(self, image: Tensor) -> Tensor:
        """Image (b, channels, z, y, x) in [0, 1] -> probability, float32, (b, 1, z, y, x)."""
        return self.method.predict(image)


@dataclass(frozen=True)
class PreparedPrediction:
    """What a stage found on the prepared grid, and how it came about.

    `crop_prob`: float32, the probability in `box`; it is zero elsewhere in the volume of `shape`.
    `windows`: how many windows `box` was cut into, 0 where it went through at once.
    """

    crop_prob: np.ndarray
    box: Box
    shape: tuple[int, ...]
    rounds: int
    windows: int

    @property
    def prob(self) -> np.ndarray:
        """Probability of the target, float32 (z, y, x), on the whole prepared grid."""
        return paste(self.crop_prob, self.box, self.shape)


def load_predictor(
    checkpoint: Path,
    device: str = "auto",
    precision: str = "auto",
    *,
    stage: str | None = None,
    window_voxels: int | None = None,
) -> Predictor:
    """The trained stage in a checkpoint; its settings come from there, never from flags.

    Raises FileNotFoundError, or ValueError naming the file: unreadable, of another stage than
    `stage`, of another network than its settings build, or with weights that are not finite.
    """
    device_ = select_device(device)
    content = load_checkpoint(
        checkpoint, device_, config=dict, method=dict, split=dict, split_hash=str, signatures=dict
    )
    try:
        config = config_from_plain(content["config"])
        split = split_from_plain(content["split"])
        signatures = {kind: from_plain(plain) for kind, plain in content["signatures"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{checkpoint}: is damaged or of another version ({first_line(error)}); train the "
            "stage again"
        ) from error
    if stage is not None and config.stage.name != stage:
        raise ValueError(
            f"{checkpoint}: trained as {config.stage.name}, not as {stage}; give a checkpoint of "
            f"{stage}"
        )
    method = build_method(config, list(split.sources)).to(device_)
    method.auxiliary = None  # it only trains
    weights = predicting_weights(content)
    _check_finite(checkpoint, weights)
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint}: its weights are not those of method {config.method} as it is now "
            f"({str(error).splitlines()[-1].strip()}); train the stage again"
        ) from error
    keep_standardized(method)
    return Predictor(
        config,
        method,
        device_,
        select_precision(precision, device_, training=False),
        window_voxels,
        split,
        signatures,
    )


def load_released_predictor(
    path: Path,
    stage: str,
    device: str = "auto",
    precision: str = "auto",
    *,
    window_voxels: int | None = None,
) -> Predictor:
    """A stage of the authors' released network (width 32, nearest upsampling), from its state dict.

    What it was trained on is not known, so nothing checks that a case is unseen. Raises ValueError
    naming the file where it is not such a state dict.
    """
    device_ = select_device(device)
    config = Config(STAGES[stage], MethodSettings(), RELEASED, width=32, upsample="nearest")
    network = ResidualEncoderDecoder(width=config.width, upsample=config.upsample)
    load_released(path, network)  # heads that it lacks are not used in prediction
    method = Method(config)
    method.network = network
    precision = select_precision(precision, device_, training=False)
    keep_standardized(method.to(device_))
    return Predictor(config, method, device_, precision, window_voxels)


def predict_prepared(
    predictor: Predictor,
    image_hu: np.ndarray,
    around: Box | None,
    threshold: float,
    found: Found = NOTHING,
) -> PreparedPrediction:
    """Predict a prepared image (int16 HU, (z, y, x)) in the crop around the box `around`.

    None stands for the central window of the whole volume. A stage with several rounds crops
    around its own result at `threshold` and predicts again, until two rounds agree (Sec. III-D,
    its ref. [23]) or what is cropped around has settled (`--settled-slices`).
    """
    stage, shape, spacing = predictor.stage, image_hu.shape, predictor.config.spacing
    box = input_box(stage, shape, around, spacing, found.pancreas)
    before: np.ndarray | None = None
    for number in range(1, stage.rounds + 1):
        prob, windows = predict_box(predictor, image_hu, box, found.mask)
        if number == stage.rounds:
            break
        pred = paste(keep_components(prob > threshold), box, shape)
        new, following = around, box
        if np.count_nonzero(pred) >= stage.min_round_voxels:
            new = bounding_box(pred)
            following = input_box(stage, shape, new, spacing, found.pancreas)
        agrees = before is not None and dsc(pred, before) >= 100 * stage.agreement_dice
        if agrees or following == box or has_settled(stage, around, new, spacing):
            break
        before, around, box = pred, new, following
    return PreparedPrediction(prob, box, shape, number, windows)


def predict_box(
    predictor: Predictor, image_hu: np.ndarray, box: Box, mask: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """Probability in `box`, float32 of its shape, the mean over the 8 mirrored inputs; windows.

    `mask`: the second channel, bool (z, y, x) like the image. Raises ValueError where the stage
    reads one and there is none, and where a probability is not finite.
    """
    stride = predictor.stage.stride
    crop_hu, inner = network_input(image_hu, box, stride, value=PAD_HU)
    image = window_hu(_to_device(crop_hu, predictor.device))[None, None]
    if predictor.stage.second_channel != NONE:
        if mask is None:
            raise ValueError(
                f"{predictor.stage.name} was trained with --second-channel "
                f"{predictor.stage.second_channel}; give the mask of {predictor.stage.previous}"
            )
        seen, _ = network_input(mask, box, stride)
        prior = smooth_mask(_to_device(seen, predictor.device)[None, None])
        image = torch.cat([image, prior], 1)
    prob, windows = predict_mirrored(predictor, image)
    for axis in (2, 3, 4):
        prob = upsample_axis(prob, axis, stride)
    found = prob[0, 0].cpu().numpy()
    if not np.isfinite(found).all():
        raise ValueError(
            f"{predictor.stage.name}: its network gives numbers that are not finite in "
            f"{predictor.precision}; give --precision fp32, or train it again"
        )
    return found[inner.slices], windows


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # pinned: the copy is the GPU's, and nothing waits for it
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def predict_mirrored(predictor: Predictor, image: Tensor) -> tuple[Tensor, int]:
    """Mean probability over all mirror combinations, (1, 1, z, y, x), and the windows of a pass.

    `image`: (1, channels, z, y, x).
    Where memory runs out it is tried again, with smaller batches and then with smaller windows.
    """
    mirrors, limit = mirror_combinations(predictor.stage.mirror_axes), predictor.window_voxels
    while True:
        voxels = min(image[0, 0].numel(), limit or image[0, 0].numel())
        together = inputs_together(predictor, voxels)
        if voxels == image[0, 0].numel():  # not cut: there are no more inputs than mirrors
            together = min(together, len(mirrors))
        try:
            return _mean_over_mirrors(predictor, image, limit, together)
        except (RuntimeError, MemoryError) as error:
            smaller = voxels // 2
            hopeless = together == 1 and smaller < MIN_WINDOW_VOXELS
            if not is_out_of_memory(error) or hopeless:
                raise
        if image.device.type == "cuda":
            torch.cuda.empty_cache()
        if together > 1:
            predictor.batches.voxels = voxels * (together // 2)
            log.warning("out of memory: from now on with batches of %d", together // 2)
            continue
        log.warning("out of memory: trying again with windows of %d voxels", smaller)
        limit = smaller


def inputs_together(predictor: Predictor, voxels: int) -> int:
    """How many inputs of so many voxels go through the network as one batch: 1, 2, 4 or 8.

    On a GPU as many as its free memory takes. On a CPU one, where a batch is slower.
    """
    free = free_memory(predictor.device)
    if free is None:
        return 1
    return batch_size(free, voxels, predictor.config.width, predictor.batches.voxels)


def _mean_over_mirrors(
    predictor: Predictor, image: Tensor, limit: int | None, together: int
) -> tuple[Tensor, int]:
    """Of crops that are not cut into windows, `together` mirrored ones are a batch."""
    mirrors = mirror_combinations(predictor.stage.mirror_axes)
    is_cut = limit is not None and image[0, 0].numel() > limit
    step = 1 if is_cut else together
    with torch.inference_mode(), autocast(predictor.device, predictor.precision):
        prob = torch.zeros_like(image[:, :1])
        for start in range(0, len(mirrors), step):
            batch = mirrors[start : start + step]
            mirrored = torch.cat([image.flip(axes) for axes in batch])
            found, windows = predict_windows(predictor, mirrored, limit, together)
            for number, axes in enumerate(batch):
                prob += found[number : number + 1].flip(axes) / len(mirrors)
    return prob, windows


def mirror_combinations(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every subset of the axes (z, y, x) = (0, 1, 2), as dimensions of (1, 1, z, y, x)."""
    subsets = (itertools.combinations(axes, n) for n in range(len(axes) + 1))
    return [tuple(axis + 2 for axis in subset) for of_size in subsets for subset in of_size]


def predict_windows(
    predictor: Predictor, image: Tensor, limit: int | None = None, together: int = 1
) -> tuple[Tensor, int]:
    """Probability of `image` at once, or by MONAI's sliding window above `limit` voxels.

    Also returns the number of windows, 0 for at once. `together`: so many windows are a batch.
    """
    if limit is None or image[0, 0].numel() <= limit:
        return predictor.predict(image), 0
    windows = 0

    def predict(batch: Tensor) -> Tensor:
        nonlocal windows
        windows += len(batch)
        return predictor.predict(batch)

    # Here: importing MONAI takes seconds, which every process of an experiment would pay.
    from monai.inferers import sliding_window_inference

    z, y, x = image.shape[2:]
    sides = window_shape((z, y, x), limit)
    prob = sliding_window_inference(
        image,
        roi_size=sides,
        sw_batch_size=together,
        predictor=predict,
        overlap=WINDOW_OVERLAP,
        mode="gaussian",
        roi_weight_map=_window_weights(sides, image.device),
    )
    assert isinstance(prob, Tensor)
    return prob, windows


@functools.lru_cache(maxsize=4)
def _window_weights(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """Those that MONAI would compute anew in each call, which makes the CPU wait for a GPU."""
    from monai.data.utils import compute_importance_map

    with torch.inference_mode(False):
        weights = compute_importance_map(
            sides, mode="gaussian", sigma_scale=WINDOW_SIGMA, device=device, dtype=torch.float32
        )
    return weights


def window_shape(shape: tuple[int, ...], voxels: int) -> tuple[int, ...]:
    """Sides of multiples of 8, in about the proportions of `shape`, of at most `voxels` in all.

    >>> window_shape((64, 224, 224), 400_000)
    (24, 112, 112)
    """
    sides = list(shape)
    while np.prod(sides) > voxels and max(sides) > STRIDE:
        ratios = [s / n if s > STRIDE else 0.0 for s, n in zip(sides, shape, strict=True)]
        sides[int(np.argmax(ratios))] -= STRIDE
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


def _check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{path}: {name} holds numbers that are not finite; train the stage again, or "
                "restore the file"
            )
