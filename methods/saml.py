"""SAML (Liu, Dou and Heng, MICCAI 2020, arXiv 2007.02035): row "SAML" of Table VI.

Against BL: each step takes one sample of each source, learns from some centers (meta-train) and
also from the others (meta-test) at the weights that a virtual gradient step on the first has led
to, where the mask shall be compact and the contour's features apart from the surroundings'.

Sure: the virtual step with stopped gradient (first order), its rate of 1e-4 and the clipping of
each tensor's gradient to a norm of 10; that both the task's and the meta gradient move the weights;
both shape terms, their weights, the margin of 10 and the metric network's own rate of 1e-3; the
network that predicts is the baseline's (945.23, 3.79e7). A step of two sources has two forward and
two backward passes.

Deviations:
1. Of two centers one is meta-train, the other meta-test, drawn anew in each step (three in the
   paper: two and one, as here where there are three). Samples go through one at a time, so memory
   is the baseline's, and each step's loss is the mean over its samples: with `--inner-lr 0` and no
   shape terms a step is the baseline's.
2. One Adam at the run's rate on the sum of both gradients, in place of two with rates of 1e-4 and
   1e-3, so that all rows have the optimizer of Sec. IV-C; `--meta-weight` weighs the second.
3. The segmentation loss is Eq. 2, not Dice alone, on both sides.
4. Compactness is the paper's, per axial slice that holds the target and within 10 voxels of it: the
   root under the length gives each voxel 1e-4, which would add up over a whole volume.
5. Of the meta-train samples the features are those before the virtual step, without gradient
   (a third pass would be needed); they are averaged over contour and ring at their own resolution
   (32 channels each at strides 1 and 2) and brought to zero mean and unit variance, since this
   network does not normalize its decoder's outputs.
6. Contour and ring are 1 and 5 voxels wide, as they are 1 and 5 pixels there, whatever these
   measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import Sample
from data.targets.contours import RING_WIDTH, contour_and_ring
from data.targets.sdm import BoxSlices, bounding_box, grow_box
from losses.compactness import slice_compactness, volume_compactness
from losses.segmentation import segmentation_loss
from losses.triplet import semi_hard_triplet_loss
from methods.base import ONE_PER_CENTER, Method, MethodSettings, Step, Terms, build_adam
from models.backbone import Levels, ResidualEncoderDecoder
from utils.settings import NOT_NEGATIVE, POSITIVE, setting

COMPACTNESS_MARGIN = 10  # voxels around the target that the compactness looks at
CONTOUR, RING = 1, 0  # the two classes of embeddings
COMPACTNESS_FORMS = ("slices", "volume")


class Shape(NamedTuple):
    """A contour or ring, by its class.

    `features`: (2 width,), pooled. `present`: bool scalar, whether it has a voxel at all; a tensor,
    so that a GPU need not be asked.
    """

    kind: int
    features: Tensor
    present: Tensor


@dataclass(frozen=True)
class SamlSettings(MethodSettings):
    """The virtual step and the two terms of shape."""

    inner_lr: float = setting(
        1e-4, "rate of the virtual step", "its released script", allowed=NOT_NEGATIVE
    )
    clip_norm: float = setting(
        10.0,
        "largest norm of a tensor's gradient in the virtual step",
        "its released script",
        allowed=POSITIVE,
    )
    meta_weight: float = setting(
        1.0, "weight of the meta gradient beside the task's", "-", allowed=NOT_NEGATIVE
    )
    metric_lr: float = setting(
        1e-3,
        "initial learning rate of the metric network",
        "its released script",
        allowed=POSITIVE,
    )
    margin: float = setting(
        10.0, "margin of the triplet loss", "its released script", allowed=NOT_NEGATIVE
    )
    compactness: str = setting(
        "slices",
        "compactness of axial slices, or of the volume",
        "its Eq. 4; volume: -",
        COMPACTNESS_FORMS,
    )
    boundary_scale: float = setting(
        0.01, "factor of the boundary's length", "its released script", allowed=POSITIVE
    )


class Saml(Method):
    """Row SAML of Table VI; `auxiliary` is the metric network, which only trains."""

    Settings = SamlSettings
    terms: ClassVar[dict[str, float]] = {"seg": 1.0, "compact": 1.0, "smooth": 0.005}
    sampling = ONE_PER_CENTER
    least_sources = 2
    table6: ClassVar[str | None] = "SAML"
    settings: SamlSettings
    network: ResidualEncoderDecoder

    def build_auxiliary(self) -> nn.Module | None:
        """The metric network, 64 -> 32 -> 16 at the paper's width."""
        if not self.uses("smooth"):
            return None
        width = self.config.width
        return nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(), nn.Linear(width, width // 2)
        )

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        """One Adam; the metric network has its own rate."""
        groups: list[dict[str, Any]] = [{"params": self.network.parameters()}]
        if self.auxiliary is not None:
            groups.append({"params": self.auxiliary.parameters(), "lr": self.settings.metric_lr})
        return [build_adam(groups, self.config.lr, self.config.weight_decay)]

    def training_step(self, samples: Sequence[Sample], step: Step) -> None:
        """Gradient of the meta-train loss, plus that of the meta-test loss at moved weights."""
        domains = sorted({sample.domain for sample in samples})
        held_out = domains[int(torch.randint(len(domains), (), generator=step.generator()))]
        meta_train = [sample for sample in samples if sample.domain != held_out]
        meta_test = [sample for sample in samples if sample.domain == held_out]
        share = 1 / len(samples)
        shapes: list[Shape] = []
        for sample in meta_train:
            step.backward(step.forward(partial(self.meta_train_loss, shapes), sample), share)
        parameters = list(self.network.parameters())
        task = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        # the virtual step is on the mean over the meta-train samples, without fp16's loss scale
        scale = step.loss_scale * max(len(meta_train), 1) * share
        settings = self.settings
        with virtual_step(parameters, task, scale, settings.inner_lr, settings.clip_norm):
            for sample in meta_test:
                terms = step.forward(partial(self.meta_test_loss, shapes), sample)
                step.backward(terms, share * settings.meta_weight, share)
        add_gradients(parameters, task)
        step.update()

    def meta_train_loss(
        self, shapes: list[Shape], sample: Sample, generator: torch.Generator
    ) -> Terms:
        """The baseline's loss; the sample's pooled features are added to `shapes`."""
        logits, levels = self._features(sample)
        if self.uses("smooth"):
            pooled = pool_shapes(levels, sample.mask, target_box(sample))
            shapes.extend(shape._replace(features=shape.features.detach()) for shape in pooled)
        return {"seg": segmentation_loss([logits], sample.mask)}

    def meta_test_loss(
        self, shapes: Sequence[Shape], sample: Sample, generator: torch.Generator
    ) -> Terms:
        """The baseline's loss and both terms of shape; `shapes`: of the meta-train samples."""
        logits, levels = self._features(sample)
        terms = {"seg": segmentation_loss([logits], sample.mask)}
        own = target_box(sample) if self.uses("compact") or self.uses("smooth") else None
        if self.uses("compact"):
            terms["compact"] = self._compactness(torch.sigmoid(logits.float()), sample, own)
        if self.uses("smooth"):
            terms["smooth"] = self._smoothness([*shapes, *pool_shapes(levels, sample.mask, own)])
        return terms

    def _features(self, sample: Sample) -> tuple[Tensor, Levels]:
        stages = self.network.encode(sample.image)
        levels = self.network.decode(stages)
        return self.network.read_out(stages, levels).logits, levels

    def _compactness(self, prob: Tensor, sample: Sample, own: BoxSlices | None) -> Tensor:
        """Of the probability near the target in its box `own`; zero where the sample has none."""
        if own is None:
            return prob.flatten()[:0].sum()
        scale = self.settings.boundary_scale
        z, y, x = grow_box(own, COMPACTNESS_MARGIN, sample.mask.shape[2:])
        if self.settings.compactness == "volume":
            return volume_compactness(prob[0, 0, z, y, x], sample.spacing, boundary_scale=scale)
        held = sample.mask[0, 0, own[0]].flatten(1).amax(dim=1) > 0.5
        return slice_compactness(
            prob[0, 0, own[0], y, x], sample.spacing[1:], held, boundary_scale=scale
        )

    def _smoothness(self, shapes: Sequence[Shape]) -> Tensor:
        """Triplet loss of the metric network's embeddings, in float32."""
        assert self.auxiliary is not None
        weight = next(self.auxiliary.parameters())
        if not shapes:  # no sample of this step has a target
            return weight.flatten()[:0].sum()
        with torch.autocast(weight.device.type, enabled=False):
            embeddings = self.auxiliary(torch.stack([shape.features for shape in shapes]))
        labels = torch.tensor([shape.kind for shape in shapes])
        labels = labels.to(weight.device, non_blocking=True)
        present = torch.stack([shape.present for shape in shapes])
        return semi_hard_triplet_loss(embeddings, labels, self.settings.margin, present)


@contextmanager
def virtual_step(
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor | None],
    scale: float,
    rate: float,
    clip_norm: float,
) -> Iterator[None]:
    """Parameters at theta - rate * clip(gradient / scale); then theta again, to the bit.

    Each tensor's gradient is clipped by itself. One that is not finite moves nothing: its update
    is skipped (fp16) or ends the training.
    """
    pairs = zip(parameters, gradients, strict=True)
    given = [
        (parameter.detach(), gradient) for parameter, gradient in pairs if gradient is not None
    ]
    if not given:
        yield
        return
    moved = [parameter for parameter, _ in given]
    kept = [torch.empty_like(parameter) for parameter in moved]
    torch._foreach_copy_(kept, moved)
    try:
        steps = clipped([gradient for _, gradient in given], scale, clip_norm)
        torch._foreach_sub_(moved, torch._foreach_mul(steps, rate))
        yield
    finally:
        torch._foreach_copy_(moved, kept)


def add_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add to each parameter's gradient another, of which either may be None."""
    own, other = [], []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        elif gradient is not None:
            own.append(parameter.grad)
            other.append(gradient)
    if own:
        torch._foreach_add_(own, other)


def clipped(gradients: list[Tensor], scale: float, clip_norm: float) -> list[Tensor]:
    """Each gradient over `scale`, its norm `clip_norm` at most; zero where that is not finite.

    All tensors at once, in a dozen launches on a GPU however many there are.
    """
    scaled = torch._foreach_div(gradients, scale)
    norms = torch.stack(torch._foreach_norm(scaled))
    factors = (clip_norm / norms).clamp(max=1)
    sizes = [gradient.numel() for gradient in gradients]
    factor, is_finite = (
        torch.cat([value.expand(size) for value, size in zip(each, sizes, strict=True)])
        for each in (factors, norms.isfinite())
    )
    flat = torch.where(is_finite, torch.cat([part.flatten() for part in scaled]) * factor, 0.0)
    parts = zip(flat.split(sizes), gradients, strict=True)
    return [part.view_as(gradient) for part, gradient in parts]


def target_box(sample: Sample) -> BoxSlices | None:
    """The smallest box that holds the sample's target; the only read of a sample from a GPU."""
    return bounding_box(sample.mask[0, 0] > 0.5)


def pool_shapes(levels: Levels, mask: Tensor, own: BoxSlices | None) -> list[Shape]:
    """Features of the finest two levels, averaged over the mask's contour and over its ring.

    `mask`: (1, 1, z, y, x); `own`: its `bounding_box`, without which there is no shape. Each
    level's average has zero mean and unit variance over its channels.
    """
    if own is None:
        return []
    regions = torch.stack(contour_and_ring(mask[0, 0] > 0.5, own=own))  # (2, z, y, x)
    pooled = []
    for level in (levels[2], levels[1]):
        ratio = mask.shape[2] // level.shape[2]
        cells = [  # of the level, that hold all of both regions
            slice(part.start // ratio, -(-part.stop // ratio))
            for part in grow_box(own, RING_WIDTH, mask.shape[2:])
        ]
        z, y, x = (slice(part.start * ratio, part.stop * ratio) for part in cells)
        means = masked_means(level[0][:, *cells], regions[:, z, y, x])
        pooled.append(F.layer_norm(means, means.shape[1:]))
    features, present = torch.cat(pooled, dim=1), regions.flatten(1).any(dim=1)
    return [Shape(kind, features[row], present[row]) for row, kind in enumerate((CONTOUR, RING))]


def masked_means(features: Tensor, regions: Tensor) -> Tensor:
    """Mean of `features` (c, z, y, x) over each of the bool `regions` (r, z, y, x): (r, c) float32.

    Regions have as many voxels as `features` or a multiple; each feature voxel counts as often as
    a region has voxels in it. Zero over an empty region. A product of matrices, since a choice of
    voxels would make a GPU wait.
    """
    ratio = regions.shape[1] // features.shape[1]
    shares = F.avg_pool3d(regions[:, None].float(), ratio).flatten(1)  # (r, voxels)
    with torch.autocast(features.device.type, enabled=False):
        sums = shares @ features.flatten(1).float().T
    return sums / shares.sum(dim=1, keepdim=True).clamp_min(1 / ratio**3)  # one voxel's share
