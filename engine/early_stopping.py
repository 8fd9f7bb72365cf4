"""Dice on held-out cases of the source centers while training: when it stops rising, stop."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data.dataset import sample_seed, target_mask
from data.prepare.prepared_case import PreparedCase
from data.prior import spoil_mask
from data.roi import Box, paste
from engine.crops import input_box
from engine.inference import Predictor, predict_box
from methods import Method
from utils.config import Config
from utils.files import write_text
from utils.metrics import dsc
from utils.postprocess import keep_components
from utils.stages import NONE, Stage

HELD_OUT = 2_000_000  # purpose of `sample_seed`, above those of training


def without_mirrors(config: Config) -> Config:
    """The configuration, with one prediction for an image."""
    return replace(config, stage=replace(config.stage, mirror_axes=()))


def can_measure(case: PreparedCase, stage: Stage) -> bool:
    """Whether a case has a label with the stage's target in it."""
    return case.has_label and stage.target in case.boxes


def dice_around_label(predictor: Predictor, case: PreparedCase, number: int) -> float:
    """Dice (%) of one prediction in a crop around the label, at the stage's threshold.

    The region of interest is the label's, so that no other stage has a part in it. The case must
    have one (`can_measure`). `number`: of the case among those that are measured, for the random
    numbers of a second channel.
    """
    stage = predictor.stage
    assert case.label is not None
    around = None if stage.roi == "volume" else case.boxes[stage.roi]
    box = input_box(stage, case.image_hu.shape, around, case.spacing)
    pred = np.zeros(case.image_hu.shape, bool)
    spoiled = _spoiled(predictor.config, case, box, number)
    prob, _ = predict_box(predictor, case.image_hu, box, spoiled)
    pred[box.slices] = prob > stage.threshold
    return float(dsc(keep_components(pred), target_mask(case.label, stage.target)))


def _spoiled(config: Config, case: PreparedCase, box: Box, number: int) -> np.ndarray | None:
    """For a stage with a second channel, the label as in training, spoiled (data/prior.py)."""
    if config.stage.second_channel == NONE:
        return None
    assert case.label is not None
    label = target_mask(np.array(case.label[box.slices]), config.stage.target)
    generator = torch.Generator().manual_seed(sample_seed(config.seed, number, HELD_OUT))
    spoiled = spoil_mask(torch.from_numpy(label)[None, None], case.spacing, generator)
    return paste(spoiled[0, 0].numpy(), box, case.image_hu.shape)


class EarlyStopping:
    """Measures the network every `validate_epochs` epochs and says when it no longer improves.

    Only held-out cases of the *sources* are looked at, in a crop around their label, so nothing of
    the unseen center can decide when a training ends.
    """

    def __init__(self, config: Config, cases: Sequence[PreparedCase]) -> None:
        """Raise ValueError where there is nothing to measure on."""
        self.config = config
        self.cases = [case for case in cases if can_measure(case, config.stage)]
        if config.validate_epochs > 0 and not self.cases:
            raise ValueError(
                f"--validate-epochs {config.validate_epochs} needs held-out cases with a "
                f"{config.stage.target}; add --holdout 0.1"
            )

    def count_due(self, step: int, per_step: int, per_epoch: int) -> int:
        """How many measures there are until the end of `step`: one where every so many epochs end.

        `per_step`, `per_epoch`: samples. A step that ends several epochs is measured once, for the
        last of them.
        """
        every = self.config.validate_epochs
        if every == 0:
            return 0
        if per_step <= per_epoch:
            return step * per_step // per_epoch // every
        return sum(number * per_step // per_epoch % every == 0 for number in range(1, step + 1))

    def measure(self, method: Method) -> float:
        """Dice (%) at the stage's threshold: mean over a center's cases, then over the centers.

        One prediction a case, without mirroring; the method is left in training mode.
        """
        device = next(method.parameters()).device
        config = without_mirrors(self.config)
        predictor = Predictor(config, method, device, config.precision)
        method.eval()
        by_center: dict[str, list[float]] = {}
        for number, case in enumerate(self.cases):
            dice = dice_around_label(predictor, case, number)
            by_center.setdefault(case.center, []).append(dice)
        method.train()
        return float(np.mean([np.mean(values) for values in by_center.values()]))

    def has_plateaued(self, history: Sequence[float]) -> bool:
        """Whether the last `patience` measures brought nothing better than the best before them."""
        patience = self.config.patience
        if patience == 0 or len(history) <= patience:
            return False
        return max(history[-patience:]) <= max(history[:-patience])

    def write(self, path: Path, history: Sequence[float]) -> None:
        """heldout.csv: epoch and Dice of every measure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("epoch", "dsc"))
        for number, dice in enumerate(history, start=1):
            writer.writerow((number * self.config.validate_epochs, f"{dice:.6g}"))
        write_text(path, text.getvalue())
