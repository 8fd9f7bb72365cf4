"""SNR: style normalization and restitution (Jin et al., IEEE TMM 2021, arXiv 2101.00588).

Row "SNR" of Table VI. Against BL: behind each of the first three stages of the encoder, instance
normalization removes style, and a channel gate restores the part of it that the task needs; a
dual causality loss asks that this makes predictions surer, and the other part less sure.

Sure: module, gate on the pooled residual, reduction 16, loss and its weight of 0.01 per module for
classification; three affine modules cost Table VI's 946.02 to the digit. Deviations: (1) The
module's output feeds the skip connection too; else style would reach the decoder past it. (2) The
loss on segmentation: the paper names the entropy of each pixel, its released segmentation never
calls it, and its weight there is not known; 0.01 is classification's, `--weights cau=0` the
released variant. (3) One 1x1x1 head per module, of the causality loss alone, shared by its three
features; of the sigmoid, not the softmax. (4) The gate starts at constants (`models/restitution`).
(5) Adam and the schedule of BL instead of SGD. Heads are never used to predict.

One forward and one backward pass a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from data.dataset import Sample
from losses.causality import dual_causality_loss
from methods.base import Method, MethodSettings, Terms
from models.backbone import ResidualEncoderDecoder
from models.capture import Call, captured
from models.layers import SameConv3d
from models.restitution import Restitution, contaminated
from utils.config import Config
from utils.settings import AT_LEAST_1, Range, setting


@dataclass(frozen=True)
class SnrSettings(MethodSettings):
    """Where the modules are, and how large their gates."""

    modules: int = setting(
        3,
        "modules, behind the first stages of the encoder; 0 is the baseline",
        "its released segmentation; Table VI's 946.02",
        allowed=Range(least=0, most=3),
    )
    reduction: int = setting(
        16, "channels per hidden unit of the gate", "its released code", allowed=AT_LEAST_1
    )


class SNR(Method):
    """Row SNR of Table VI: `settings.modules` restitution modules and their causality loss."""

    Settings = SnrSettings
    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "cau": 0.01}
    table6: ClassVar[str | None] = "SNR"
    settings: SnrSettings

    def __init__(self, config: Config, sources: Sequence[str] = ()) -> None:
        """Raise ValueError for a causality loss without a module."""
        super().__init__(config, sources)
        if self.uses("cau") and self.settings.modules == 0:
            raise ValueError("--modules 0: the term cau has no module; give --weights cau=0 too")

    def build_network(self) -> nn.Module:
        """The baseline's network; each stage that has a module ends in it, skip included."""
        network = super().build_network()
        assert isinstance(network, ResidualEncoderDecoder)
        stages = (network.stage0, network.stage1, network.stage2)
        for index, stage in enumerate(stages[: self.settings.modules]):
            stage.append(Restitution(network.width * 2**index, self.settings.reduction))
        return network

    def build_auxiliary(self) -> nn.Module | None:
        """The heads that tell how sure a module's features are."""
        if not self.uses("cau"):
            return None
        return nn.ModuleList(SameConv3d(m.norm.num_features, 1) for m in self.restitutions())

    def restitutions(self) -> list[Restitution]:
        """The modules, from the first stage on."""
        return [module for module in self.network.modules() if isinstance(module, Restitution)]

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """Eq. 2, and the causality loss summed over the modules."""
        if not self.uses("cau"):
            return super().loss(sample, generator)
        modules = self.restitutions()
        with captured(*modules, *(module.norm for module in modules)) as calls:
            terms = super().loss(sample, generator)
        assert isinstance(self.auxiliary, nn.ModuleList)
        losses = [
            causality(head, calls[module], calls[module.norm].output)
            for head, module in zip(self.auxiliary, modules, strict=True)
        ]
        return {**terms, "cau": torch.stack(losses).sum()}


def causality(head: nn.Module, call: Call, normalized: Tensor) -> Tensor:
    """The loss of one module; its head is affine, so the contaminated logits need no feature."""
    of_feature, of_normalized, of_restored = (
        head(x).float() for x in (call.input, normalized, call.output)
    )
    return dual_causality_loss(
        of_normalized, of_restored, contaminated(of_feature, of_normalized, of_restored)
    )
