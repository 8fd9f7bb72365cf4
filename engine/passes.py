"""What a training step of a method costs: forward and backward passes, counted while it runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from data.dataset import ONE_PER_CENTER, Crop
from engine.checkpointing import NoCheckpoints, build_state
from engine.step import TrainingStep
from methods import make_config
from models.backbone import ResidualEncoderDecoder
from utils.stages import TUMOR_FINE

SOURCES = ("A", "B")  # as many as in the round robin over three centers
SHAPE, SPACING = (8, 16, 16), (1.5, 0.8, 0.8)  # of the samples, voxels and mm (z, y, x)
WIDTH = 8
FEW_STEPS = 8  # a method whose first steps are alike takes no draw of how many passes it makes
MANY_STEPS = 64  # the mean of the others


@dataclass(frozen=True)
class Passes:
    """Images through a whole network for each training sample, the mean of `steps` steps.

    `forwards`: also those that are computed again for a gradient. `backwards`: gradients that have
    come back to the network's first layer.
    """

    forwards: float
    backwards: float
    steps: int


def count_passes(method: str, few: int = FEW_STEPS, many: int = MANY_STEPS) -> Passes:
    """Run training steps of a method with its default settings, and count.

    The fine tumor stage, two sources, small random samples on a CPU. Where the first `few` steps
    differ, as those of DART do, it is the mean of `many`. Raises ValueError for a method without
    the shared backbone.
    """
    config = make_config(
        replace(TUMOR_FINE, epochs=1),
        method,
        width=WIDTH,
        spacing=SPACING,
        device="cpu",
        precision="fp32",
    )
    state = build_state(config, torch.device("cpu"), SOURCES)
    group = len(SOURCES) if state.method.sampling == ONE_PER_CENTER else 1
    crops = make_crops()
    counted: list[tuple[int, int]] = []
    with counting(state.method) as passes:
        state.method.train()
        while len(counted) < few or (len(set(counted)) > 1 and len(counted) < many):
            step = TrainingStep(config, state, NoCheckpoints(), many)  # type: ignore[arg-type]
            before = tuple(passes)
            samples = step.take(crops, group)
            state.method.training_step(samples, step)
            step.finish()
            state.step += 1
            state.method.after_step(step)
            counted.append((passes[0] - before[0], passes[1] - before[1]))
    forwards, backwards = (np.array(counted) / group).mean(axis=0).tolist()
    return Passes(forwards, backwards, len(counted))


@contextmanager
def counting(method: nn.Module) -> Iterator[list[int]]:
    """Forward and backward passes of every backbone in `method` inside the `with` block, counted in
    images at its first layer.
    """
    passes = [0, 0]

    def note_backward(gradient: Tensor) -> None:
        passes[1] += len(gradient)

    def note_forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passes[0] += len(output)
        if output.requires_grad:
            output.register_hook(note_backward)

    stems = [part.stem for part in method.modules() if isinstance(part, ResidualEncoderDecoder)]
    if not stems:
        raise ValueError("its passes cannot be counted: it has no ResidualEncoderDecoder")
    handles = [stem.register_forward_hook(note_forward) for stem in stems]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def make_crops() -> Iterator[Crop]:
    """Crops without end, one of each source in turn: noise, in it a pancreas with a tumor."""
    rng = np.random.default_rng(0)
    distance = np.linalg.norm(
        [(n - size / 2) / (size / 2) for n, size in zip(np.indices(SHAPE), SHAPE, strict=True)],
        axis=0,
    )
    label = torch.from_numpy((distance < 0.8).astype(np.uint8) + (distance < 0.45))
    for index in itertools.count():
        hu = rng.normal(60, 30, SHAPE) + 60 * label.numpy()
        image_hu = torch.from_numpy(np.rint(hu).astype(np.int16))
        yield Crop(
            image_hu, label, SPACING, None, f"case_{index}", SOURCES[index % len(SOURCES)], index
        )
