"""Gradients averaged over processes, in messages that travel while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

MESSAGE_BYTES = 16 * 2**20  # of gradients; a parameter is never cut


class GradientAverage:
    """The mean over the processes of the gradients of some parameters; made for one step.

    `overlapped` sends each message as soon as the backward pass has its last gradient, the deepest
    layers' first; `finish` sends what is left, waits, and gives each parameter its mean. All
    processes send the same messages in the same order, whichever parameters of theirs have a
    gradient, so none waits for a message that another does not send.

    A parameter without a gradient counts as zero, so that a head which one process did not use
    stays in step; without a gradient in every process it stays so, as in a single process.

    DistributedDataParallel does not fit: it averages in each backward pass through its own
    `forward`, while a method may call parts of its network, train several networks by an
    optimizer each (DART), or take a gradient away and add another to it (SAML).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], size: int) -> None:
        """`size`: how many processes there are."""
        self._size = size
        trained = [p for p in dict.fromkeys(parameters) if p.requires_grad]
        self._messages = _split(trained[::-1])
        self._waiting = [len(message) for message in self._messages]
        self._number = {p: n for n, message in enumerate(self._messages) for p in message}
        self._sent: list[_Sent] = []

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """Within it, the last backward pass of these parameters before the optimizer's step."""
        hooks = [p.register_post_accumulate_grad_hook(self._note) for p in self._number]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self) -> None:
        """Replace each gradient by its mean over the processes."""
        while len(self._sent) < len(self._messages):
            self._send_next()
        for message, sent in zip(self._messages, self._sent, strict=True):
            sent.work.wait()
            used: Sequence[float] = ()
            if sent.missing:  # else the number of users is not needed, nor a wait for the GPU
                used = sent.flat[-len(message) :].tolist()
            sent.flat /= self._size
            sizes = [p.numel() for p in message]
            pieces = sent.flat[: sum(sizes)].split(sizes)
            for index, (parameter, piece) in enumerate(zip(message, pieces, strict=True)):
                if index not in sent.missing or used[index] > 0:
                    parameter.grad = piece.view_as(parameter)

    def _note(self, parameter: Tensor) -> None:
        """A gradient is there: send the messages that are whole, but none before its turn."""
        self._waiting[self._number[parameter]] -= 1  # type: ignore[index]
        while len(self._sent) < len(self._messages) and not self._waiting[len(self._sent)]:
            self._send_next()

    def _send_next(self) -> None:
        """One message: the gradients, and behind them a 1 for each that is there."""
        message = self._messages[len(self._sent)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in message]
        missing = {index for index, p in enumerate(message) if p.grad is None}
        there = gradients[0].new_ones(len(message))
        for index in missing:
            there[index].zero_()
        flat = torch.cat([*(g.reshape(-1) for g in gradients), there])
        self._sent.append(_Sent(flat, distributed.all_reduce(flat, async_op=True), missing))


@dataclass
class _Sent:
    """A message on its way: the sum over the processes, once `work` is done."""

    flat: Tensor
    work: distributed.Work
    missing: set[int]  # places of the parameters without a gradient in this process


def _split(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters in order, in messages of one type each and of `MESSAGE_BYTES` at most."""
    messages: list[list[nn.Parameter]] = []
    left, kind = 0, None
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if not messages or size > left or (parameter.dtype, parameter.device) != kind:
            messages.append([])
            left, kind = MESSAGE_BYTES, (parameter.dtype, parameter.device)
        messages[-1].append(parameter)
        left -= size
    return messages
