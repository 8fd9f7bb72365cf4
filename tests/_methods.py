"""Three throw-away methods that show what the contract carries; no method of the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from data.dataset import ONE_PER_CENTER, Sample
from losses.segmentation import segmentation_loss
from methods.base import Method, MethodSettings, Step, Terms
from models.backbone import ResidualEncoderDecoder
from utils.config import Config
from utils.settings import setting


@dataclass(frozen=True)
class MemorySettings(MethodSettings):
    """`momentum`: of the memory."""

    momentum: float = setting(0.9, "how much of the memory a step keeps", "test")


class Memory(Method):
    """A state that every step updates: one mean intensity per center, and an average of weights."""

    Settings = MemorySettings
    sampling = ONE_PER_CENTER
    settings: MemorySettings
    memory: Tensor
    average: Tensor
    network: ResidualEncoderDecoder

    def __init__(self, config: Config, sources: Sequence[str] = ()) -> None:
        super().__init__(config, sources)
        self.register_buffer("memory", torch.zeros(max(len(self.sources), 1)))
        self.register_buffer("average", torch.zeros(1))

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        old = self.memory[sample.domain]
        image = sample.image + 0.1 * (old - sample.image.mean())
        keep = self.settings.momentum
        self.memory[sample.domain] = keep * old + (1 - keep) * sample.image.mean()
        return {"seg": segmentation_loss([self.network(image).logits], sample.mask)}

    def after_step(self, step: Step) -> None:
        bias = self.network.segmentation_head.bias
        assert bias is not None
        self.average.lerp_(bias.detach(), 0.1 * (1 + step.progress))
        step.sync_buffers()


class TwoOptimizers(Method):
    """Its own step: the network learns by one optimizer, a second network by another."""

    terms: ClassVar[dict[str, float]] = {"seg": 1.0, "critic": 0.5}
    auxiliary: nn.Module

    def build_auxiliary(self) -> nn.Module:
        return ResidualEncoderDecoder(width=8, distance=False, slices=False, projection=False)

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(
                self.network.parameters(),
                lr=self.config.lr,
                weight_decay=self.config.weight_decay,
            ),
            torch.optim.SGD(self.auxiliary.parameters(), lr=10 * self.config.lr, momentum=0.9),
        ]

    def critic_loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        with torch.no_grad():
            wrong = (self.network(sample.image).logits > 0) != (sample.mask > 0.5)
        return {"critic": segmentation_loss([self.auxiliary(sample.image).logits], wrong.float())}

    def training_step(self, samples: Sequence[Sample], step: Step) -> None:
        first, second = step.optimizers
        for sample in samples:
            step.backward(step.forward(self.loss, sample), 1 / len(samples))
        step.update(first)
        for sample in samples:
            step.backward(step.forward(self.critic_loss, sample), 1 / len(samples))
        step.update(second)


class Auxiliary(Method):
    """An auxiliary network that trains with the network and is nowhere else."""

    terms: ClassVar[dict[str, float]] = {"seg": 1.0, "aux": 0.1}

    def build_auxiliary(self) -> nn.Module:
        return nn.Conv3d(1, 1, 3, padding=1)

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        logits = self.network(sample.image).logits
        assert self.auxiliary is not None
        refined: Tensor = self.auxiliary(logits)
        return {
            "seg": segmentation_loss([logits], sample.mask),
            "aux": segmentation_loss([refined], sample.mask),
        }
