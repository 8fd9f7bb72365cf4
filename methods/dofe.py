"""DoFE (Wang et al., IEEE TMI 2020, arXiv 2010.06208): row "DoFE" of Table VI.

Against BL: a memory keeps the mean feature of each source center; what a sample's features look
like says which mixture of them is added to these features, through an attention gate.

Sure: the similarity is softmax of a code from a global maximum, a norm, a ReLU and a 1x1
convolution; h + tanh(conv(h)) * sum_k w_k M_k; M is no parameter and moves by an average over time
of h's mean over space; the code learns the true center by 0.1 times a squared error, its label 0.8
to 1 for the true center and the rest at random; the memory is still when predicting, which needs no
center. The cost is of our construction: a 256 -> 256 gate at stride 8 and a 64 -> 64 gate at stride
4 are what the row's 945.95 and 3.81e7 ask for together, and stand for the original's high and low
level.

Deviations:
1. The memory holds vectors: the original's maps have equal entries once they have been updated.
2. h is the feature map over its root mean square: this backbone does not normalize its sums.
3. The gate begins at zero, so that training begins as the baseline.
4. Nothing is read for the first quarter of the steps, while the memory fills by running means. The
   original starts from a trained network and, we infer, one pass of mean features.
5. Momentum 0.99, since a step has one sample of each center (batches of 8 and 0.9 in the original);
   the features of all samples of a step are averaged, then remembered.
6. The segmentation loss is Eq. 2. The original's code moves its memory by test images too; this one
   moves it in training only.
One forward and one backward pass for each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from data.dataset import Sample
from losses.segmentation import segmentation_loss
from methods.base import ONE_PER_CENTER, Method, MethodSettings, Step, Terms
from models.domain_pool import DomainPoolNetwork
from utils.config import Config
from utils.settings import PROBABILITY, Range, setting


@dataclass(frozen=True)
class DofeSettings(MethodSettings):
    """The memory and the label of the domain code."""

    momentum: float = setting(
        0.99,
        "how much of a memory a step keeps",
        "its released code: 0.9 for batches of 8",
        allowed=Range(least=0, below=1),
    )
    warmup: float = setting(
        0.25,
        "part of the training that fills the memory and does not read it",
        "-",
        allowed=PROBABILITY,
    )
    least_true: float = setting(
        0.8,
        "the true center's label is uniform between this and 1",
        "its released code",
        allowed=PROBABILITY,
    )


class Dofe(Method):
    """Row DoFE of Table VI."""

    Settings = DofeSettings
    terms: ClassVar[dict[str, float]] = {"seg": 1.0, "domain": 0.1}
    sampling = ONE_PER_CENTER
    least_sources = 2
    table6: ClassVar[str | None] = "DoFE"
    table6_note: ClassVar[str] = (
        "its gates have the size that the printed 945.95 and 3.81e7 ask for"
    )
    settings: DofeSettings
    network: DomainPoolNetwork
    remembered: Tensor

    def __init__(self, config: Config, sources: Sequence[str] = ()) -> None:
        super().__init__(config, sources)
        # how many steps each memory has seen
        self.register_buffer("remembered", torch.zeros(self.source_count, dtype=torch.long))
        self._seen: list[tuple[int, tuple[Tensor, Tensor]]] = []  # of the step: domain, means

    def build_network(self) -> DomainPoolNetwork:
        """The backbone with its memories."""
        config = self.config
        return DomainPoolNetwork(self.source_count, width=config.width, upsample=config.upsample)

    def training_step(self, samples: Sequence[Sample], step: Step) -> None:
        """The baseline's, with the memory in use from the end of the warm-up on."""
        if step.progress >= self.settings.warmup:
            self.network.active.fill_(1.0)
        super().training_step(samples, step)

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """The baseline's loss, and the error of the domain code."""
        outputs, means = self.network.read(sample.image)
        if self.training:
            self._seen.append((sample.domain, means))
        terms = {"seg": segmentation_loss([outputs.logits], sample.mask)}
        if self.uses("domain"):
            assert outputs.domain_logits is not None
            logits = outputs.domain_logits
            label = soft_label(
                sample.domain, logits.shape[1], self.settings.least_true, generator
            ).to(logits.device, non_blocking=True)
            terms["domain"] = F.mse_loss(logits.softmax(dim=1)[0], label)
        return terms

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """M_k <- momentum M_k + (1 - momentum) mean(h_k), for each center that the step had.

        A memory's first steps are a plain mean, until that keeps as much as the momentum.
        """
        for domain in sorted({domain for domain, _ in self._seen}):
            self.remembered[domain] += 1
            rate = (1 / self.remembered[domain]).clamp_min(1 - self.settings.momentum)
            seen = [means for seen_domain, means in self._seen if seen_domain == domain]
            for pool, means in zip(self.network.pools, zip(*seen, strict=True), strict=True):
                pool.prototypes[domain].lerp_(torch.cat(means).mean(dim=0), rate)
        self._seen.clear()
        step.sync_buffers()


def soft_label(domain: int, count: int, least: float, generator: torch.Generator) -> Tensor:
    """(count,), its sum 1: `domain` has U(least, 1), the others share the rest at random."""
    true = least + (1 - least) * torch.rand((), generator=generator)
    label = torch.rand(count, generator=generator).clamp_min(1e-6)
    label[domain] = 0.0
    label *= (1 - true) / label.sum()
    label[domain] = true
    return label
