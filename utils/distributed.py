"""The processes of a `torchrun` that train together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from utils.gradients import GradientAverage

# Tensors of a GPU travel by NCCL, those of the CPU by gloo: so a number that the CPU has, as a
# signal's, makes no process wait for its GPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
MAX_WAIT = timedelta(days=2)  # the others wait while the first process prepares all cases


@dataclass(frozen=True)
class Distributed:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes (`GradientAverage`)."""
        if self.size > 1:
            GradientAverage(parameters, self.size).finish()

    def average_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Replace each buffer by its mean over the processes; whole numbers by the first's."""
        if self.size == 1:
            return
        for buffer in buffers:
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= self.size
            else:
                distributed.broadcast(buffer, src=0)

    def largest(self, number: int) -> int:
        """The largest `number` of any process, in every process; no GPU waits for it."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
        return int(value.item())

    def share(self, values: Tensor) -> Tensor:
        """The mean of `values` over the processes."""
        if self.size > 1:
            distributed.all_reduce(values)
            values /= self.size
        return values

    def from_first(self, value: str) -> str:
        """The first process's text, in every process."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, text: str) -> list[str]:
        """The texts of all processes, in every process."""
        if self.size == 1:
            return [text]
        texts = [""] * self.size
        distributed.all_gather_object(texts, text)
        return texts

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def join_processes(device: torch.device) -> Iterator[Distributed]:
    """The processes of `torchrun`'s environment variables, or one process."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Distributed()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(BACKENDS[device.type], timeout=MAX_WAIT)
    try:
        yield Distributed(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
