"""LANet-style edge multi-task learning, after LA-Net (Uslu et al., IEEE TMI 41(2):456-464, 2022).

Row "LANet" of Table VI. Against BL: the decoder also predicts the lesion's edge, and a gate merges
edge features back into those that the mask is read from.

Sure, from the abstract alone: mask and edge are learned together; cross attention modules select
edge information, and enhanced decoder modules merge it in at several scales. No full text and no
code could be read, so this is not LA-Net: the form of its modules, the width of its edges, its
weights and learning rate are not known, and confidence in ours is low. Own choices: (1) Gate and
merging are 1x1x1 convolutions (`models/edge_fusion`), at full resolution only, which is what Table
VI's cost allows; `--scales 3` is nearer to the abstract. (2) An auxiliary mask is read from the
features before merging, weight 0.5. (3) Edges are two voxels wide, learned by Dice and weighted
cross-entropy, weight 1. (4) 3D instead of 2D slices.

Cost: 957.91. The heads of edge and auxiliary mask only train; with them it is 958.14, Table VI's
figure, by construction. One forward and one backward pass a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import Sample
from data.targets.edges import edge_mask
from losses.segmentation import dice_bce_loss, segmentation_loss
from methods.base import Method, MethodSettings, Terms
from models.backbone import ResidualEncoderDecoder
from models.capture import captured
from models.edge_fusion import EdgeFusion
from models.layers import voxel_head
from utils.config import Config
from utils.settings import AT_LEAST_1, Range, setting

DECODERS = ("decoder1", "decoder2", "decoder3")  # full, half and quarter resolution


@dataclass(frozen=True)
class LanetStyleSettings(MethodSettings):
    """Where edges are merged, and how they are learned."""

    scales: int = setting(
        1,
        "scales at which edges are merged, from full resolution on; 0 is the baseline",
        "Table VI's 958.14; several in its abstract",
        allowed=Range(least=0, most=len(DECODERS)),
    )
    positive_weight: float = setting(
        10.0, "weight of an edge voxel in the cross-entropy", "own choice", allowed=AT_LEAST_1
    )
    anisotropy: float = setting(
        3.0,
        "slices thicker than this many voxels' sides have edges within slices only",
        "own choice",
        allowed=AT_LEAST_1,
    )


class LanetStyle(Method):
    """Row LANet of Table VI: mask and edge, the edge's features merged into the mask's."""

    Settings = LanetStyleSettings
    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0, "aux": 0.5, "edge": 1.0}
    table6: ClassVar[str | None] = "LANet"
    table6_note: ClassVar[str] = (
        "957.91 is what predicts; with the heads of edge and auxiliary mask, which only train, it "
        "is the printed 958.14, by construction"
    )
    settings: LanetStyleSettings

    def __init__(self, config: Config, sources: Sequence[str] = ()) -> None:
        """Raise ValueError for terms that need edge features where there are none."""
        super().__init__(config, sources)
        if self.auxiliary is not None and self.settings.scales == 0:
            raise ValueError(
                "--scales 0: the terms aux and edge have no features; "
                "leave them out by --weights aux=0 edge=0"
            )

    def build_network(self) -> nn.Module:
        """The baseline's network; the decoder ends in a fusion at each of the scales."""
        network = super().build_network()
        assert isinstance(network, ResidualEncoderDecoder)
        for name in DECODERS[: self.settings.scales]:
            decoder = getattr(network, name)
            fusion = EdgeFusion(decoder.conv2.weight.shape[0])
            setattr(network, name, nn.Sequential(decoder, fusion))
        return network

    def build_auxiliary(self) -> nn.Module | None:
        """The heads of the edge at each scale, and of the auxiliary mask."""
        heads = nn.ModuleDict()
        if self.uses("edge"):
            channels = [fusion.select.in_channels for fusion in self.fusions()]
            heads["edge"] = nn.ModuleList(map(voxel_head, channels))
        if self.uses("aux"):
            heads["aux"] = voxel_head(self.config.width)
        return heads if len(heads) else None

    def fusions(self) -> list[EdgeFusion]:
        """The modules that merge edges, from full resolution on."""
        decoders = (getattr(self.network, name) for name in DECODERS[: self.settings.scales])
        return [decoder[1] for decoder in decoders]

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """Eq. 2 on the mask, on the auxiliary one, and its weighted form on the edges."""
        if self.auxiliary is None:
            return super().loss(sample, generator)
        assert isinstance(self.auxiliary, nn.ModuleDict)
        fusions = self.fusions()
        with captured(*fusions, *(fusion.edge for fusion in fusions)) as calls:
            terms = super().loss(sample, generator)
        if self.uses("aux"):
            logits = self.auxiliary["aux"](calls[fusions[0]].input)
            terms["aux"] = segmentation_loss([logits], sample.mask)
        if self.uses("edge"):
            heads = self.auxiliary["edge"]
            assert isinstance(heads, nn.ModuleList)
            logits_by_scale = [
                head(calls[fusion.edge].output) for head, fusion in zip(heads, fusions, strict=True)
            ]
            terms["edge"] = self._edge_loss(logits_by_scale, sample)
        return terms

    def _edge_loss(self, logits_by_scale: Sequence[Tensor], sample: Sample) -> Tensor:
        """Mean over the scales; each has the edge of the mask at its own resolution."""
        z, y, x = sample.spacing
        within_slices = z > self.settings.anisotropy * max(y, x)
        losses = []
        for scale, logits in enumerate(logits_by_scale):
            mask = F.max_pool3d(sample.mask, 2**scale)
            edge = edge_mask(mask, within_slices=within_slices).float()
            losses.append(dice_bce_loss(logits, edge, self.settings.positive_weight))
        return torch.stack(losses).mean()
