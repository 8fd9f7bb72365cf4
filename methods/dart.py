"""DART (Jain et al., CVPR 2023, arXiv 2302.14685): row "DART" of Table VI.

Against BL: copies of one network train side by side, each favoring the cases of one source center,
and are all replaced by the mean of their weights at equal intervals and at the end.

Sure: one copy for each source, drawing twice as often from its own center as from each other one;
a copy on all alike besides in the original (`--mixture`); equal weights in the mean; optimizers go
on through a mean, untouched; one averaged network predicts. Table VI's cost is that of two networks
(1890.47, 7.58e7): its authors counted, and by its seconds also ran, both. `--mode ensemble` is that
reading: no mean at the end, and the mean of the copies' probabilities predicts.

Deviations: (1) samples go through one at a time, and all copies draw from the same ones of a step,
as many as the step has, with replacement; one drawn again counts more instead of being run again.
So a copy sees as many samples as the baseline, and a step costs 1 to 2 passes a copy with two
sources. (2) The interval is a tenth of the training, between the original's 600 of 8,001 and 1,000
of 10,001 steps. (3) Adam of Sec. IV-C. (4) Between means the copies' mean is renewed at the end of
each epoch for what looks at the network meanwhile; the copies do not change. log.csv has the mean
loss of the copies.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from data.dataset import Sample
from losses.segmentation import segmentation_loss
from methods.base import ONE_PER_CENTER, Method, MethodSettings, Step, Terms, build_adam
from utils.settings import AT_LEAST_1, NOT_NEGATIVE, Range, setting

MODES = ("average", "ensemble")


@dataclass(frozen=True)
class DartSettings(MethodSettings):
    """The copies, what they see, and when they are averaged."""

    copies: int = setting(
        0,
        "networks that train side by side, the first ones favoring a source each; 0: one for each",
        "Table VI: one for each",
        allowed=NOT_NEGATIVE,
    )
    mixture: bool = setting(False, "one more copy, on all centers alike", "its Sec. 4")
    own_ratio: float = setting(
        2.0,
        "how often a copy draws from its own center for each draw from another; 1: all alike",
        "its released script",
        allowed=Range(least=1),
    )
    averages: int = setting(
        10,
        "how often the copies are averaged, the last time at the end",
        "its released script",
        allowed=AT_LEAST_1,
    )
    mode: str = setting(
        "average",
        "the mean of the weights predicts, or the mean of the probabilities (Table VI's cost)",
        "its Sec. 3; Table VI",
        MODES,
    )


class Dart(Method):
    """Row DART of Table VI.

    Mode "average": `network` is the mean and `auxiliary` the copies. Mode "ensemble": `network`
    holds the copies.
    """

    Settings = DartSettings
    sampling = ONE_PER_CENTER
    table6: ClassVar[str | None] = "DART"
    table6_note: ClassVar[str] = (
        "one averaged network predicts; 1890.47 and 7.58e7 are two networks, which --mode ensemble "
        "keeps"
    )
    settings: DartSettings

    @property
    def copies(self) -> list[nn.Module]:
        """The networks that train."""
        owner = self.network if self.settings.mode == "ensemble" else self.auxiliary
        assert isinstance(owner, nn.ModuleList)
        return list(owner)

    def build_network(self) -> nn.Module:
        """One network, or all of them."""
        network = super().build_network()
        if self.settings.mode == "ensemble":
            return Ensemble(self._copy(network))
        return network.requires_grad_(False)

    def build_auxiliary(self) -> nn.Module | None:
        """The copies that an average is made of."""
        if self.settings.mode == "ensemble":
            return None
        return nn.ModuleList(self._copy(self.network)).requires_grad_(True)

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        """An Adam for each copy."""
        lr, decay = self.config.lr, self.config.weight_decay
        return [build_adam(each.parameters(), lr, decay) for each in self.copies]

    def training_step(self, samples: Sequence[Sample], step: Step) -> None:
        """One optimizer step of each copy, one after the other, on its own draws."""
        copies = self.copies
        for number, (network, optimizer) in enumerate(zip(copies, step.optimizers, strict=True)):
            loss = partial(self.copy_loss, network)
            shares = self.draw_shares(number, samples, step.generator(number))
            for sample, share in zip(samples, shares, strict=True):
                if share > 0:
                    step.backward(step.forward(loss, sample), share, share / len(copies))
            step.update(optimizer)

    def copy_loss(self, network: nn.Module, sample: Sample, generator: torch.Generator) -> Terms:
        """The baseline's loss of one copy."""
        return {"seg": segmentation_loss([network(sample.image).logits], sample.mask)}

    def draw_shares(
        self, number: int, samples: Sequence[Sample], generator: torch.Generator
    ) -> list[float]:
        """How much each sample counts for a copy: as many draws as samples, their sum is 1."""
        count = len(samples)
        own = [sample.domain == number for sample in samples]
        if self.copy_count == 1 or self.settings.own_ratio == 1 or not any(own):
            return [1 / count] * count
        odds = torch.tensor([self.settings.own_ratio if is_own else 1.0 for is_own in own])
        drawn = torch.multinomial(odds, count, replacement=True, generator=generator)
        return [times / count for times in drawn.bincount(minlength=count).tolist()]

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Replace all copies by their mean where an interval ends."""
        averages = self.settings.averages
        due = step.number * averages // step.total > (step.number - 1) * averages // step.total
        ensemble = self.settings.mode == "ensemble"
        if not due or (ensemble and step.number == step.total):
            return
        mean = mean_state(self.copies)
        for network in self.copies if ensemble else [*self.copies, self.network]:
            network.load_state_dict(mean)

    @torch.no_grad()
    def after_epoch(self, epoch: int) -> None:
        """Renew the mean, for held-out cases and where a training ends early."""
        if self.settings.mode == "average":
            self.network.load_state_dict(mean_state(self.copies))

    def predict(self, image: Tensor) -> Tensor:
        """The averaged network's probability, or the mean of the copies' probabilities."""
        if self.settings.mode == "average":
            return super().predict(image)
        return torch.stack([torch.sigmoid(x.float()) for x in self.network(image)]).mean(dim=0)

    @property
    def copy_count(self) -> int:
        """How many networks train."""
        return (self.settings.copies or self.source_count) + self.settings.mixture

    def _copy(self, network: nn.Module) -> list[nn.Module]:
        return [copy.deepcopy(network) for _ in range(self.copy_count)]


class Ensemble(nn.ModuleList):
    """Several networks on one image."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The logits of each, (b, 1, z, y, x)."""
        return tuple(network(image).logits for network in self)


def mean_state(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The mean of the networks' weights and buffers; of whole numbers the first's."""
    states = [network.state_dict() for network in networks]
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
