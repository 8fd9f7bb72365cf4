"""nnU-Net's trainer with a budget of ours, and PaNSegNet's; their networks, loaded and counted.

The only module that imports nnU-Net; it is imported inside the functions that need it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module_of_trainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from methods.external.data_set import EPOCH
from methods.external.pansegnet import PaNSegNet, Plan
from models.complexity import Complexity, count_complexity

SAVE_EPOCHS = 5  # between checkpoints, which is what a kill can cost


@dataclass(frozen=True)
class Budget:
    """How long a training is, and how its validation predicts; nnU-Net's own unless set."""

    epochs: int = 1000
    iterations: int = 250
    validation_iterations: int = 50
    mirroring: bool = True
    seed: int = 2022
    tile_step: float = 0.5


class NnunetTrainer(module_of_trainer.nnUNetTrainer):
    """nnU-Net's own, of the length, seed and mirroring that `begin` sets."""

    budget = Budget()
    validated: tuple[str, ...] = ()  # configurations whose validation is wanted

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  as nnU-Net's
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.budget.epochs
        self.num_iterations_per_epoch = self.budget.iterations
        self.num_val_iterations_per_epoch = self.budget.validation_iterations
        self.save_every = SAVE_EPOCHS
        seed = self.budget.seed + fold
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  what batchgenerators draws from
        torch.manual_seed(seed)
        if device.type == "cpu":  # nnU-Net takes all processors
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or _processors()))

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:
        """As nnU-Net, but without mirroring where the budget says so."""
        *others, mirror_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if not self.budget.mirroring:
            mirror_axes = self.inference_allowed_mirroring_axes = None
        return (*others, mirror_axes)

    def on_epoch_end(self) -> None:
        """As nnU-Net, and say it in a line that the progress counts."""
        super().on_epoch_end()
        print(EPOCH, self.current_epoch, flush=True)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Only where another configuration reads its label maps; nothing else does."""
        if self.configuration_name in self.validated:
            super().perform_actual_validation(save_probabilities)


class PaNSegNetTrainer(NnunetTrainer):
    """PaNSegNet's network on nnU-Net's plan."""

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network for the patch that was planned."""
        form = configuration_manager.network_arch_init_kwargs
        plan = Plan(
            patch=tuple(configuration_manager.patch_size),
            features=tuple(form["features_per_stage"]),
            kernels=tuple(map(tuple, form["kernel_sizes"])),
            strides=tuple(map(tuple, form["strides"])),
            classes=num_output_channels,
            channels=num_input_channels,
        )
        return PaNSegNet(plan, enable_deep_supervision)


TRAINERS = {trainer.__name__: trainer for trainer in (NnunetTrainer, PaNSegNetTrainer)}


def register() -> None:
    """Put our trainers where nnU-Net looks one up first.

    Elsewhere it would import its variants, and so torchvision, which not every build of torch can.
    """
    for name, trainer in TRAINERS.items():
        setattr(module_of_trainer, name, trainer)


def begin(name: str, budget: dict[str, Any], validated: Iterable[str]) -> None:
    """Register, and set how long the trainer of that name trains and how its validation predicts.

    The distance of the validation's windows has no setting in nnU-Net, only in its predictor.
    """
    register()
    trainer = TRAINERS[name]
    trainer.budget = Budget(**budget)
    trainer.validated = tuple(validated)

    def make_predictor(*args: Any, **options: Any) -> nnUNetPredictor:
        return nnUNetPredictor(*args, **{**options, "tile_step_size": trainer.budget.tile_step})

    module_of_trainer.nnUNetPredictor = make_predictor


def load_predictor(
    model: Path,
    trainer: str,
    folds: Iterable[int],
    device: torch.device,
    *,
    mirroring: bool,
    tile_step: float,
) -> Any:
    """nnU-Net's predictor of the networks of `folds` in a model folder."""
    register()
    with contextlib.redirect_stdout(io.StringIO()):  # on a CPU it says what it cannot do
        predictor = nnUNetPredictor(
            tile_step_size=tile_step,
            use_mirroring=mirroring,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
    predictor.initialize_from_trained_model_folder(str(model), tuple(folds))
    return predictor


def count_network(model: Path, trainer: str, configuration: str) -> Complexity:
    """The network of a configuration, as it trains (with every head), for the planned patch."""
    plans = PlansManager(json.loads((model / "plans.json").read_text(encoding="utf-8")))
    dataset = json.loads((model / "dataset.json").read_text(encoding="utf-8"))
    planned = plans.get_configuration(configuration)
    channels = determine_num_input_channels(plans, planned, dataset)
    heads = plans.get_label_manager(dataset).num_segmentation_heads
    network = TRAINERS[trainer].build_network_architecture(plans, planned, channels, heads, True)
    z, y, x = planned.patch_size
    return count_complexity(network, [(z, y, x)], channels)


def _processors() -> int:
    return len(os.sched_getaffinity(0))
