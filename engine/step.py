"""`TrainingStep`: what the loop lends a method for one optimizer step.

Precision, loss scaling, weights, the average over processes, the check for finite numbers and the
log's values are here, so that a method's own `training_step` only says what is learned from what.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from data.dataset import Crop, Sample, sample_seed
from engine.checkpointing import Checkpointer, State
from engine.samples import SampleFeed
from methods.base import Loss, Method, Terms
from utils.config import Config, StoppedError
from utils.device import autocast
from utils.errors import describe_error
from utils.gradients import GradientAverage

MIN_LOSS_SCALE = 1.0  # fp16: with gradients still infinite here, the scale is not the cause
# Purposes of `sample_seed`, behind those of engine/samples.py: from 2 on each forward pass has its
# dropout.
DROPOUT, OF_STEP = 2, 1_000_000


class NonFiniteLossError(StoppedError):
    """A loss term or a gradient became NaN or infinite; the last good state is on disk."""


class TrainingStep:
    """The `Step` of methods/base.py; made for each step.

    `number`: of this step, from 1, of `total`; `progress`: the part of the training before it, in
    [0, 1).
    """

    def __init__(self, config: Config, state: State, save: Checkpointer, steps: int) -> None:
        self.config, self.state, self.save = config, state, save
        self.number, self.total = state.step + 1, steps
        self.progress = state.step / steps
        self.cases: list[str] = []  # center/case of each sample, for the log
        self.shapes: list[tuple[int, ...]] = []  # of each sample's crop, (z, y, x)
        self._generators: dict[int, torch.Generator] = {}
        self._forwards: dict[int, int] = {}
        self._sums: dict[str, Tensor] = {}  # of the log, weighted by their shares
        self._norms: list[Tensor] = []
        self._shared: dict[str, float] | None = None  # the log's values, where they are read
        self._updates = 0
        self._backwards = 0
        self._average: GradientAverage | None = None  # of gradients that travel already
        self._feed: SampleFeed | None = None  # of this and the next step's samples

    @property
    def lr(self) -> float:
        """The learning rate of this step, of an optimizer that began with the configured one."""
        return self.config.lr * self._decay

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The method's, in the order in which it built them."""
        return self.state.optimizers

    @property
    def loss_scale(self) -> float:
        """What `backward` multiplies gradients by, until `update`; 1 but in fp16."""
        return float(self.state.scaler.get_scale())

    def generator(self, purpose: int = 0) -> torch.Generator:
        """Random numbers of this step that belong to no sample; the same after a resume."""
        seed = sample_seed(self.config.seed, self.number, OF_STEP + purpose)
        return torch.Generator().manual_seed(seed)

    def take(self, crops: Iterator[Crop], count: int) -> list[Sample]:
        """The next samples, augmented, with the targets that the method asks for."""
        return self._take(SampleFeed(self.config, self.state, crops, count))

    def take_from(self, feed: SampleFeed) -> list[Sample]:
        """The feed's next samples; those of the step behind this one are made before `update`."""
        self._feed = feed
        return self._take(feed)

    def _take(self, feed: SampleFeed) -> list[Sample]:
        group = feed.take()
        self.shapes += group.shapes
        self.cases += group.cases
        if group.error is not None:
            raise group.error
        for sample, generator in zip(group.samples, group.generators, strict=True):
            self._generators[sample.index] = generator
        return group.samples

    def forward(self, loss: Loss, sample: Sample) -> Terms:
        """`loss(sample, generator)` in the run's precision, with the sample's own random numbers.

        Called again for a sample it draws further ones.
        """
        times = self._forwards.get(sample.index, 0)
        self._forwards[sample.index] = times + 1
        torch.manual_seed(sample_seed(self.config.seed, sample.index, DROPOUT + times))
        with autocast(self.state.device, self.config.precision):
            return loss(sample, self._generators[sample.index])

    def backward(self, terms: Terms, share: float = 1.0, logged: float | None = None) -> None:
        """Add the gradient of `share` times the weighted sum of the terms, and log them.

        `logged`: their share in the log where it is another, as with several networks.
        Raises ValueError for a term that the method does not name.
        """
        total = weighted_sum(terms, self.state.method.weights)
        with self._averaging():
            self.state.scaler.scale(total * share).backward()
        # As one tensor, so that a GPU is not given two operations for each term.
        parts = torch.stack([*terms.values(), total]).detach()
        parts = parts * (share if logged is None else logged)
        for name, part in zip((*terms, "total"), parts.unbind(), strict=True):
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        self._shared = None

    def update(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Step one optimizer (None: each) with its gradients averaged over the processes.

        A gradient or term that is not finite ends the training.
        """
        if self._feed is not None:  # while the GPU is busy, before its values are waited for
            self._feed.begin()
        scaler, average, self._average = self.state.scaler, self._average, None
        if average is not None:
            average.finish()
        for each in self.optimizers if optimizer is None else [optimizer]:
            parameters = parameters_of(each)
            if average is None:
                self.save.processes.average_gradients(parameters)
            if not scaler.is_enabled() or scaler.get_scale() < MIN_LOSS_SCALE:
                # the scaler of fp16 skips a step of infinite gradients and lowers the scale
                gradients = [p.grad for p in parameters if p.grad is not None]
                self._norms.append(nn.utils.get_total_norm(gradients))
                self._shared = None
            self._check_finite()
            for group in each.param_groups:
                group["lr"] = group["initial_lr"] * self._decay
            scaler.step(each)
            each.zero_grad(set_to_none=True)
            self._updates += 1

    @property
    def largest_crop(self) -> str:
        """Size and case of the largest crop, for a message about memory."""
        shape, case = max(zip(self.shapes, self.cases, strict=True), key=lambda p: math.prod(p[0]))
        return f"{' x '.join(map(str, shape))} = {math.prod(shape)} voxels, of {case}"

    def keep_state(self) -> str:
        """Save the state before this step, where the step has not moved it; what is on disk now."""
        if self._updates == 0:  # else one of several optimizers has moved already
            try:
                self.save(force=True)
            except OSError as error:
                return f"{describe_error(error)}; {self.save.kept}"
        return self.save.kept

    def sync_buffers(self) -> None:
        """Make the method's buffers equal in all processes: their mean, or the first's integers."""
        self.save.processes.average_buffers(self.state.method.buffers())

    def finish(self) -> dict[str, float]:
        """End the step: the terms of the log, averaged over the processes.

        Raises ValueError where the method did not update, or left out a term that has a weight.
        """
        method = self.config.method
        if self._updates == 0:
            raise ValueError(f"method {method}: its training_step must call step.update()")
        weights = self.state.method.weights
        missing = [name for name, w in weights.items() if w > 0 and name not in self._sums]
        if missing:
            raise ValueError(
                f"method {method}: its loss gave no {', '.join(missing)}, which have a weight; "
                "give a term of 0 where there is nothing to learn, or leave it out by --weights"
            )
        self.state.scaler.update()
        return self._read()

    def _averaging(self) -> AbstractContextManager[None]:
        """What sends gradients to the other processes while a backward pass makes them.

        Only the last pass of a step can, and only the default step says which that is; a method's
        own may do anything to gradients up to `update`, which then sends them.
        """
        self._backwards += 1
        is_default = type(self.state.method).training_step is Method.training_step
        size = self.save.processes.size
        if size == 1 or not is_default or self._backwards < len(self.shapes):
            return nullcontext()
        parameters = [p for each in self.optimizers for p in parameters_of(each)]
        self._average = GradientAverage(parameters, size)
        return self._average.overlapped()

    @property
    def _decay(self) -> float:
        """Poly decay (Sec. IV-C)."""
        return (1 - self.progress) ** self.config.lr_power

    def _values(self) -> dict[str, Tensor]:
        norm = {"grad_norm": torch.stack(self._norms).norm()} if self._norms else {}
        return {**self._sums, **norm}

    def _read(self) -> dict[str, float]:
        """The log's values, averaged over the processes: one read from a GPU until they change."""
        if self._shared is None:
            values = self._values()
            shared = self.save.processes.share(torch.stack(list(values.values()))).tolist()
            self._shared = dict(zip(values, shared, strict=True))
        return self._shared

    def _check_finite(self) -> None:
        """Stop the run where a term or gradient of any process is not finite."""
        # A mean over the processes is finite where each of its values is.
        if all(math.isfinite(value) for value in self._read().values()):
            return
        values, processes = self._values(), self.save.processes
        kept = self.keep_state()
        shown = ", ".join(f"{name} {float(term):g}" for name, term in values.items())
        everywhere = "; ".join(processes.gather(f"{', '.join(self.cases)} ({shown})"))
        raise NonFiniteLossError(
            f"{self.save.run.folder}: step {self.number}: loss or gradient is not finite at "
            f"{everywhere}; {kept}. Check that case, or lower --lr, or use --precision fp32"
        )


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """What an optimizer moves, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def weighted_sum(terms: Terms, weights: dict[str, float]) -> Tensor:
    """Eq. 11: the sum of the terms by their weights; a term without a weight is an error."""
    unknown = sorted(set(terms) - set(weights))
    if unknown:
        raise ValueError(
            f"loss terms without a weight: {', '.join(unknown)}; the method's terms are "
            f"{', '.join(weights)}"
        )
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
