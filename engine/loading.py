"""The crops of a training, read by worker processes that outlive signals and report errors."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

from data.dataset import Crop, StageDataset
from engine.step_order import order_groups
from utils.config import Config, StoppedError
from utils.device import select_device
from utils.distributed import Distributed
from utils.signals import held_signals, obey_parent

AHEAD = 2  # crops that a worker reads before they are asked for
SHARED_MEMORY = (
    "the shared memory of this machine is too small; give more of it (docker run --shm-size 8g, "
    "or mount a larger /dev/shm) or read without workers (--workers 0)"
)
_CAUSES = {
    -signal.SIGBUS: SHARED_MEMORY,
    -signal.SIGKILL: "it was killed, most likely because memory ran out; give fewer --workers",
}


def load_crops(
    dataset: StageDataset, config: Config, processes: Distributed, start: int, stop: int
) -> Iterator[Crop]:
    """This process's crops of the steps `start` to `stop`.

    Process r of W with A groups a step takes groups a W + r of each step (`order_groups`), so that
    two processes see what one process with twice the groups sees. A group is one sample, or one of
    each source. `stop`: the training's last step. For a GPU they lie in pinned memory; each worker
    reads two ahead. An error of reading is raised with the case's name; StoppedError where a worker
    was killed.
    """
    per_step = processes.size * config.accumulate
    steps = order_groups(dataset, per_step, config.sorted_steps, start, stop)
    own = (group for step in steps for group in step[processes.rank :: processes.size])
    order = (group * dataset.group + k for group in own for k in range(dataset.group))
    pinned = select_device(config.device).type == "cuda"
    return _Crops(dataset, order, config.workers, pinned)


class _Crops(Iterator[Crop]):
    """The crops of a dataset in a given order."""

    def __init__(
        self, dataset: StageDataset, order: Iterator[int], workers: int, pinned: bool
    ) -> None:
        loader = DataLoader(
            _Reading(dataset),
            batch_size=None,
            sampler=order,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            pin_memory=pinned,
            worker_init_fn=_begin_worker if workers else None,
        )
        before = signal.getsignal(signal.SIGCHLD)
        with held_signals():
            self._items: Iterator[Any] = iter(loader)
        # PyTorch's handler raises in the middle of a step, when the state cannot be saved; without
        # it the next crop says the same, within seconds.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)

    def __next__(self) -> Crop:
        try:
            item = next(self._items)
        except RuntimeError as error:
            cause = self._cause(error)
            if cause is None:
                raise
            raise StoppedError(f"a process that reads cases has ended: {cause}") from error
        if isinstance(item, BaseException):
            raise item
        assert isinstance(item, Crop)
        return item

    def _cause(self, error: RuntimeError) -> str | None:
        """Why a worker is gone; None where none is."""
        workers = getattr(self._items, "_workers", ())
        ended = [worker.exitcode for worker in workers if worker.exitcode]
        if not ended:
            return None
        return _CAUSES.get(ended[0], f"exit status {ended[0]} ({str(error).splitlines()[0]})")


class _Reading(Dataset[Crop | Exception]):
    """The crops; what cannot be read is given as its error: a worker could not raise it whole."""

    def __init__(self, dataset: StageDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Crop | Exception:
        try:
            crop = self.dataset[index]
        except (OSError, MemoryError, ValueError) as error:
            case = self.dataset.case_of(index)
            error.add_note(f"it was needed for {case.center}/{case.case_id}")
            return error
        if get_worker_info() is None:
            return crop
        try:  # here, where the error can be given; the queue's own thread would only print it
            crop.image_hu.share_memory_()
            crop.label.share_memory_()
        except (RuntimeError, OSError) as error:
            return StoppedError(f"{SHARED_MEMORY} ({str(error).splitlines()[0]})")
        return crop


def _begin_worker(number: int) -> None:
    obey_parent()
