"""`WeightAverage`: the weights that predict, averaged over the steps of a training.

An exponential moving average (Polyak and Juditsky 1992, in the form that is usual today), PyTorch's
own. It is a setting of every row alike, no part of a method: the weights that train never see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from methods import Method


class WeightAverage:
    """The mean of the weights and buffers of `method.network`; nearer steps count more.

    A step counts e times less than one that is `epochs` epochs (of `per_epoch` steps each) after
    it. It begins with the weights of the first step, not with the random ones before it.
    """

    def __init__(self, method: Method, epochs: float, per_epoch: float) -> None:
        self.method = method
        self.decay = math.exp(-1 / max(epochs * per_epoch, 1e-9))
        self._model = AveragedModel(
            method.network, multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=True
        )

    def update(self) -> None:
        """Take the weights in as they are now, after a step."""
        self._model.update_parameters(self.method.network)

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Inside the `with` block the averaged network predicts."""
        trained = self.method.network
        self.method.network = self._model.module
        try:
            yield
        finally:
            self.method.network = trained

    def to_plain(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return self._model.state_dict()

    def load(self, saved: Mapping[str, Any]) -> None:
        """Return to what `to_plain` gave. Raises RuntimeError where it is of another network."""
        self._model.load_state_dict(saved)


def predicting_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of a checkpoint's content the weights that predict: averaged ones where there are any.

    Without those of `auxiliary`, which only trains.
    """
    weights = {k: v for k, v in content["method"].items() if not k.startswith("auxiliary.")}
    mean = {
        f"network.{name.removeprefix('module.')}": value
        for name, value in content.get("average", {}).items()
        if name.startswith("module.")
    }
    return {**weights, **mean}
