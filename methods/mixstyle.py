"""MixStyle (Zhou et al., ICLR 2021, arXiv 2104.02008): row "MixStyle" of Table VI.

Against BL: in training, the mean and deviation of each channel of the first two stages' features
are mixed with those of a case of another center, half of the times.

Sure (its paper and released code): probability 0.5 for each of the two places, a share of the own
style ~ Beta(0.1, 0.1), statistics over space without a gradient, deviation sqrt(var + 1e-6) of the
unbiased variance, partners of another domain ("crossdomain"), never in the last layers.
Deviations: (1) It mixes within a batch. A step has one sample here, as for BL, and crops differ in
size; so the partner's statistics come from a bank of the last cases of each center. Only they are
needed of a partner, so this is the same but for their age: up to `--bank-length` cases of a center.
(2) Where the split has a single center, the partner is another case of it. (3) The mixed features
go to the next stage and to the skip, else the decoder would see the old style.
In several processes each takes the styles that all have seen before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from data.dataset import Sample
from methods.base import Method, MethodSettings, Step, Terms
from models.style import StyleBank, mix_styles, style_of, with_style
from utils.settings import AT_LEAST_1, POSITIVE, PROBABILITY, Range, setting

PARTNERS = ("crossdomain", "random")


@dataclass(frozen=True)
class MixStyleSettings(MethodSettings):
    """How often, how much, where, and with whom styles are mixed."""

    probability: float = setting(
        0.5, "how often a place mixes", "its released code", allowed=PROBABILITY
    )
    alpha: float = setting(
        0.1,
        "the own style's share is drawn from Beta(alpha, alpha)",
        "its released code",
        allowed=POSITIVE,
    )
    layers: tuple[int, ...] = setting(
        (0, 1),
        "stages of the encoder whose features are mixed",
        "its released code",
        allowed=Range(least=0, most=2),
    )
    partner: str = setting(
        "crossdomain", "a case of another center, or of any", "its released code", PARTNERS
    )
    bank_length: int = setting(
        32, "cases of each center whose styles are kept", "-", allowed=AT_LEAST_1
    )

    def __post_init__(self) -> None:
        """Raise ValueError where no stage is named, or one twice."""
        if not self.layers or len(set(self.layers)) < len(self.layers):
            shown = " ".join(map(str, self.layers))
            raise ValueError(f"--layers {shown}: name one stage or more, each once")


class MixStyle(Method):
    """Row MixStyle of Table VI: the baseline with mixed feature statistics."""

    Settings = MixStyleSettings
    table6: ClassVar[str | None] = "MixStyle"
    settings: MixStyleSettings
    auxiliary: nn.ModuleDict

    def build_auxiliary(self) -> nn.ModuleDict:
        """A bank of styles for each place; it has no parameters."""
        domains, length = max(len(self.sources), 1), self.settings.bank_length
        return nn.ModuleDict(
            {
                f"stage{layer}": StyleBank(domains, length, self.config.width * 2**layer)
                for layer in self.settings.layers
            }
        )

    def loss(self, sample: Sample, generator: torch.Generator) -> Terms:
        """Eq. 2, with mixed styles while training."""
        if not self.training:
            return super().loss(sample, generator)
        with self.mixing(sample, generator):
            return super().loss(sample, generator)

    @contextmanager
    def mixing(self, sample: Sample, generator: torch.Generator) -> Iterator[None]:
        """Within it, the network's forward pass of the sample mixes styles."""
        handles = []
        for name, bank in self.auxiliary.items():
            assert isinstance(bank, StyleBank)
            stage = self.network.get_submodule(name)
            handles.append(stage.register_forward_hook(self._mixer(bank, sample, generator)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _mixer(
        self, bank: StyleBank, sample: Sample, generator: torch.Generator
    ) -> Callable[[nn.Module, object, Tensor], Tensor]:
        """A hook that replaces a stage's features, and notes their style in the bank."""
        settings = self.settings
        crossdomain = settings.partner == "crossdomain" and len(self.sources) > 1

        def mix(module: nn.Module, inputs: object, features: Tensor) -> Tensor:
            own = style_of(features)
            bank.add(own, sample.domain, sample.index)
            coin, place = torch.rand(2, generator=generator).tolist()
            share = draw_share(settings.alpha, generator)
            if coin >= settings.probability:
                return features
            other, found = bank.draw(place, sample.domain if crossdomain else None)
            # without a partner, in the first steps, all is its own
            return with_style(features, mix_styles(own, other, torch.where(found, share, 1.0)))

        return mix

    def after_step(self, step: Step) -> None:
        """The step's styles become partners of the next."""
        step.sync_buffers()
        for bank in self.auxiliary.children():
            assert isinstance(bank, StyleBank)
            bank.merge()


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """A number of Beta(alpha, alpha); torch's own distribution takes no generator."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))
