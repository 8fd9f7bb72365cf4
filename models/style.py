"""The style of features: mean and deviation of each channel, exchanged between samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-6  # added to the variance, under the root, as in MixStyle

Style = tuple[Tensor, Tensor]  # mean and deviation, each (b, c), float32, without a gradient


@torch.no_grad()
def style_of(features: Tensor) -> Style:
    """Mean and deviation (of the unbiased variance) over space of `features` (b, c, z, y, x)."""
    var, mean = torch.var_mean(features.float(), dim=(2, 3, 4))
    return mean, (var + EPS).sqrt()


def with_style(features: Tensor, style: Style) -> Tensor:
    """`features` (b, c, z, y, x) with another style: normalized by their own, then by `style`.

    The gradient flows through the features alone, not through what is measured of them.
    """
    mean, std = style_of(features)
    scale = style[1] / std
    shift = style[0] - mean * scale
    scale, shift = (part[:, :, None, None, None] for part in (scale, shift))
    return (features.float() * scale + shift).to(features.dtype)


def mix_styles(one: Style, other: Style, share: Tensor | float) -> Style:
    """`share` of the one style and the rest of the other."""
    return (
        share * one[0] + (1 - share) * other[0],
        share * one[1] + (1 - share) * other[1],
    )


class StyleBank(nn.Module):
    """Styles of the last samples of each domain, as buffers, so that they are saved and resumed.

    What is added counts from the next `merge` on. Between the two, the buffers can be averaged over
    processes: each sample's style is then the same in all of them.
    """

    styles: Tensor
    filled: Tensor
    new_styles: Tensor
    new_counts: Tensor

    def __init__(self, domains: int, length: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("styles", torch.zeros(domains, length, 2, channels))
        self.register_buffer("filled", torch.zeros(domains, length))
        self.register_buffer("new_styles", torch.zeros_like(self.styles), persistent=False)
        self.register_buffer("new_counts", torch.zeros_like(self.filled), persistent=False)

    def add(self, style: Style, domain: int, index: int) -> None:
        """Note the style of a sample, (1, c); `index`, its running number, decides the place."""
        place = index % self.filled.shape[1]
        self.new_styles[domain, place] += torch.cat(style)
        self.new_counts[domain, place] += 1

    def merge(self) -> None:
        """Take in what was added; of samples that share a place, the mean."""
        is_new = self.new_counts > 0
        counts = self.new_counts.clamp_min(torch.finfo().tiny)[..., None, None]
        self.styles.copy_(
            torch.where(is_new[..., None, None], self.new_styles / counts, self.styles)
        )
        self.filled.masked_fill_(is_new, 1.0)
        self.new_styles.zero_()
        self.new_counts.zero_()

    def draw(self, place: float, without: int | None = None) -> tuple[Style, Tensor]:
        """The entry at the part `place` of [0, 1) of all entries; whether there is any, a bool.

        `without`: a domain whose entries do not count. Where there is none, the style is (0, 0).
        """
        usable = self.filled > 0
        if without is not None:
            usable[without] = False
        order = usable.flatten().cumsum(0)  # stays on the device, as does what follows
        wanted = (place * order[-1]).floor()
        entry = self.styles.flatten(0, 1).index_select(
            0, (order <= wanted).sum()[None] % len(order)
        )
        found = order[-1] > 0
        mean, std = (entry[0] * found).unbind()
        return (mean[None], std[None]), found
