"""`Method`: the contract of everything that is trained here. Overriding nothing is the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from data.augment import AugmentSettings, augment
from data.dataset import ONE_PER_CENTER, SAMPLINGS, SHUFFLED, TARGETS, Sample
from data.prior import smooth_mask, spoil_mask
from losses.segmentation import segmentation_loss
from models.backbone import ResidualEncoderDecoder
from utils.config import Config
from utils.settings import is_number, setting
from utils.stages import NONE, Stage

__all__ = ["ONE_PER_CENTER", "SHUFFLED", "Method", "MethodSettings", "Step", "Terms"]

PAPER_SOURCES = 2  # of the round robin over three centers
Terms = dict[str, Tensor]  # loss terms by name, each a float32 scalar


class Loss(Protocol):
    """A method's loss, as `Step.forward` calls it."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Terms: ...


class Step(Protocol):
    """What the training loop lends a method for one optimizer step (`engine.training`)."""

    @property
    def progress(self) -> float:
        """The part of the training that is done before this step, in [0, 1)."""

    @property
    def number(self) -> int:
        """This step's number, from 1."""

    @property
    def total(self) -> int:
        """The number of steps of the whole training."""

    @property
    def loss_scale(self) -> float:
        """What `backward` multiplies gradients by, until `update`; 1 but in fp16."""

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of `build_optimizers`, in their order."""

    def generator(self, purpose: int = 0) -> torch.Generator:
        """Random numbers of this step that belong to no sample; the same after a resume."""

    def forward(self, loss: Loss, sample: Sample) -> Terms:
        """`loss(sample, generator)` in the run's precision, with the sample's own random numbers.

        Called again for a sample it draws further ones.
        """

    def backward(self, terms: Terms, share: float = 1.0, logged: float | None = None) -> None:
        """Add the gradient of `share` times the weighted sum of the terms, and log them.

        `logged`: their share in the log where it is another, as with several networks.
        """

    def update(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Step one optimizer (None: each) with its gradients averaged over the processes.

        A gradient or term that is not finite ends the training.
        """

    def sync_buffers(self) -> None:
        """Make the method's buffers equal in all processes: their mean, or the first's integers."""


@dataclass(frozen=True)
class MethodSettings:
    """Settings that every method has; a method adds its own in a subclass.

    `weights`: of each loss term, by name; what is given is merged into the method's `terms`.
    """

    augment: AugmentSettings = AugmentSettings()
    weights: Mapping[str, float] = setting(
        {}, "weight of each loss term; 0 leaves the term out", "Eq. 11"
    )


class Method(nn.Module):
    """Eq. 2 on one view. A method overrides the smallest hook that makes it different.

    It is a module, so that all that it trains, and every buffer (a memory, an average), is saved
    and resumed with it: `network`, which alone predicts and is counted in Table VI, `auxiliary`,
    which only trains, and whatever a subclass adds. Class attributes say what the loop prepares:

    - `terms`: its loss terms and their default weights; log.csv has a column for each.
    - `targets`: of `data.dataset.TARGETS`, what a sample is prepared with beside its mask.
    - `sampling`: "shuffled", or "one_per_center": a step gets one sample of each source.
    - `least_sources`: how many source centers it needs to learn anything.
    - `table5`, `table6`: the rows of the paper's tables that it stands for. `table6_note`: what a
      reader of Table VI must know, as why its cost is not the printed one. `extra_row`: its name in
      a row that the paper does not have, which Table VI shows for reference.
    - `takes_second_channel`: whether its network has `channels` inputs and its loss gives them by
      `add_channel`, for `--second-channel`.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    terms: ClassVar[Mapping[str, float]] = {"seg": 1.0}
    targets: tuple[str, ...] = ()
    sampling: ClassVar[str] = SHUFFLED
    least_sources: ClassVar[int] = 1
    table5: ClassVar[str | None] = None
    table6: ClassVar[str | None] = None
    table6_note: ClassVar[str] = ""
    extra_row: ClassVar[str | None] = None
    takes_second_channel: ClassVar[bool] = False

    network: nn.Module
    auxiliary: nn.Module | None

    def __init__(self, config: Config, sources: Sequence[str] = ()) -> None:
        """`sources`: the centers of the split, in its order; `sample.domain` is an index of them.

        None: no center is known yet, as where only its cost is counted. Raises ValueError for
        settings of another method, an unknown term, weight or target, and for too few sources.
        """
        super().__init__()
        if type(config.settings) is not self.Settings:
            raise ValueError(
                f"method {config.method} needs its own settings ({self.Settings.__name__}), not "
                f"{type(config.settings).__name__}; make the configuration by methods.make_config"
            )
        self.config, self.stage, self.sources = config, config.stage, tuple(sources)
        if 0 < len(self.sources) < self.least_sources:
            raise ValueError(
                f"method {config.method} needs {self.least_sources} source centers or more, not "
                f"{len(self.sources)} ({', '.join(self.sources)}): it learns from how they differ"
            )
        self.settings = config.settings
        if self.stage.second_channel != NONE and not self.takes_second_channel:
            raise ValueError(
                f"--second-channel {self.stage.second_channel}: method {config.method} takes the "
                "image alone; leave it out, or train bl, ours or a row of Table V between them"
            )
        self.weights = check_weights(config.method, self.terms, self.settings.weights)
        self.targets = self.needed_targets()
        _check_choices(f"method {config.method}: target", self.targets, tuple(TARGETS))
        _check_choices(f"method {config.method}: sampling", (self.sampling,), SAMPLINGS)
        self.network = self.build_network()
        self.auxiliary = self.build_auxiliary()

    @property
    def source_count(self) -> int:
        """How many source centers there are; the paper's two where none is known yet."""
        return len(self.sources) or PAPER_SOURCES

    @classmethod
    def default_settings(cls, stage: Stage) -> MethodSettings:
        """The settings of a stage before the user changes any; a method may differ by stage."""
        return cls.Settings(weights=dict(cls.terms))

    def needed_targets(self) -> tuple[str, ...]:
        """What samples are prepared with; where that depends on settings, those that they use."""
        return self.targets

    def build_network(self) -> nn.Module:
        """What predicts, and what Table VI counts: the shared backbone, without further heads."""
        return ResidualEncoderDecoder(
            width=self.config.width,
            distance=False,
            slices=False,
            projection=False,
            upsample=self.config.upsample,
        ).take_channels(self.channels)

    def build_auxiliary(self) -> nn.Module | None:
        """What only trains: a metric network, an edge head; never used by `predict`."""
        return None

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers of a training, saved and resumed in this order: Adam (Sec. IV-C).

        Each group's learning rate is its initial one, which the loop lets decay.
        """
        return [build_adam(self.parameters(), self.config.lr, self.config.weight_decay)]

    def augment(
        self,
        image: Tensor,
        label: Tensor,
        spacing: tuple[float, float, float],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Geometric and intensity augmentation of image and label, (1, 1, z, y, x).

        It may not depend on what a step changes: on a GPU it runs for the next step before this
        one has ended.
        """
        mirror_axes = self.stage.mirror_axes
        return augment(image, label, spacing, self.settings.augment, generator, mirror_axes)

    @property
    def channels(self) -> int:
        """Of the network's input: the image, and the coarse result where the stage reads it."""
        return 1 if self.stage.second_channel == NONE else 2

    def add_channel(
        self, images: Sequence[Tensor], sample: Sample, generator: torch.Generator
    ) -> list[Tensor]:
        """The sample's images (1, 1, z, y, x) as the network takes them, (1, channels, z, y, x).

        The second channel is the label, spoiled at random (data/prior.py), the same for each image.
        """
        if self.channels == 1:
            return list(images)
        prior = smooth_mask(spoil_mask(sample.mask, sample.spacing, generator))
        return [torch.cat([image, prior.to(image)], 1) for image in images]

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """Loss terms by name (keys of `terms`), each a float32 scalar with a gradient."""
        (image,) = self.add_channel([sample.image], sample, generator)
        outputs = self.network(image)
        return {"seg": segmentation_loss([outputs.logits], sample.mask)}

    def training_step(self, samples: Sequence[Sample], step: Step) -> None:
        """One optimizer step on the samples of this process: their mean loss, by default."""
        for sample in samples:
            step.backward(step.forward(self.loss, sample), 1 / len(samples))
        step.update()

    def after_step(self, step: Step) -> None:
        """Called behind each step: the place of moving averages."""

    def after_epoch(self, epoch: int) -> None:
        """Called when all samples of an epoch have been seen."""

    def predict(self, image: Tensor) -> Tensor:
        """Image (b, channels, z, y, x) in [0, 1] -> probability, float32, (b, 1, z, y, x)."""
        return torch.sigmoid(self.network(image).logits.float())

    def uses(self, term: str) -> bool:
        """Whether a term of the loss has a weight above 0."""
        return self.weights.get(term, 0.0) > 0


def build_adam(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, weight_decay: float
) -> torch.optim.Adam:
    """Adam of parameters, or of groups of them; on a GPU one kernel moves them all."""
    adam = torch.optim.Adam(parameters, lr, weight_decay=weight_decay)
    for group in adam.param_groups:
        group["fused"] = all(parameter.is_cuda for parameter in group["params"])
    return adam


def check_weights(
    method: str, terms: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, float]:
    """`weights` merged into the method's `terms`.

    Raises ValueError for a term that the method does not have, or a weight that is no number of 0
    or more, or where no term is left.
    """
    _check_choices(f"--weights: method {method}: term", tuple(weights), tuple(terms))
    merged = {**terms, **weights}
    for term, weight in merged.items():
        if not is_number(weight) or not 0 <= weight < float("inf"):
            raise ValueError(f"--weights {term}={weight}: a number, 0 or more")
    if not any(merged.values()):
        raise ValueError("--weights: at least one above 0")
    return merged


def _check_choices(what: str, names: Sequence[str], choices: Sequence[str]) -> None:
    for name in names:
        if name not in choices:
            raise ValueError(f"{what} {name!r} is unknown; choose from {', '.join(choices)}")
