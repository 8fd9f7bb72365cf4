"""DCAC (Hu et al., IEEE TMI 2022, arXiv 2109.05676): row "DCAC" of Table VI.

Against BL: the last layers are convolutions whose weights are made for each image, some from the
source centers that it looks like, the others from its own deepest features.

Sure: the classifier sees the mean of every encoder stage without passing a gradient back; the
domain code is the true center in training and the classifier's softmax when predicting; the
residual subtraction, the norm over all channels of a sample, the generated layers and their sizes,
and the cross-entropy's weight of 1.

Table VI's cost is not decidable: a head as in the released code costs 946.04, with one logit, and
the paper prints 945.98, which a head of two logits without the first norm would cost. Parameters
agree (3.79e7).

Deviations: (1) the full-resolution head only, without deep supervision, which no other row has.
(2) One logit, so that all rows share Eq. 2; channels count two classes, as in the original. (3) The
pooled features are brought to zero mean and unit variance in each stage: the original's are
instance-normalized, this backbone's sums are not. (4) Adam of Sec. IV-C, one sample of each center
a step. A true code in training and a softmax when predicting is the original's own gap.
One forward and one backward pass for each sample.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F

from data.dataset import Sample
from losses.segmentation import segmentation_loss
from methods.base import ONE_PER_CENTER, Method, Terms
from models.dynamic_head import DynamicHeadNetwork


class Dcac(Method):
    """Row DCAC of Table VI; its weights of the terms are all that can be set."""

    terms: ClassVar[dict[str, float]] = {"seg": 1.0, "domain": 1.0}
    sampling = ONE_PER_CENTER
    least_sources = 2
    table6: ClassVar[str | None] = "DCAC"
    table6_note: ClassVar[str] = (
        "the head of its released code costs 946.04, with one logit; 945.98 would be a head of two "
        "logits without the first norm"
    )
    network: DynamicHeadNetwork

    def build_network(self) -> DynamicHeadNetwork:
        """The backbone with the dynamic head."""
        config = self.config
        return DynamicHeadNetwork(self.source_count, width=config.width, upsample=config.upsample)

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """The baseline's loss with the true center's code, and the classifier's cross-entropy."""
        domains = torch.full((1,), sample.domain, device=sample.image.device)
        outputs = self.network(sample.image, domains)
        terms = {"seg": segmentation_loss([outputs.logits], sample.mask)}
        if self.uses("domain"):
            terms["domain"] = F.cross_entropy(outputs.domain_logits, domains)
        return terms
