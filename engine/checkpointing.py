"""The state of a training run: built from the seed, saved, loaded.

Checkpoints hold tensors and plain types only; they are written atomically and read with
`weights_only=True`.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.prepare.signature import Signature
from data.prepare.signature import to_plain as signatures_to_plain
from data.splits import Split
from engine.run_folders import Run, environment, name_differences
from engine.run_log import RunLog
from engine.weight_average import WeightAverage, predicting_weights
from methods import Method, build_method
from utils.config import Config
from utils.distributed import Distributed
from utils.errors import first_line, is_damage, is_memory_error
from utils.files import write_atomic
from utils.settings import to_plain

FORMAT = 2  # raise when a reader of the old layout would misread the new one
SNAPSHOTS = "snapshots"  # folder of a run
PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, bool, int, float, str, type(None))


@dataclass
class State:
    """Everything that a step changes."""

    method: Method
    optimizers: list[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    step: int = 0
    heldout_dsc: list[float] = field(default_factory=list)
    average: WeightAverage | None = None  # None: the last weights predict

    @property
    def device(self) -> torch.device:
        """Where the method's parameters are."""
        return next(self.method.parameters()).device

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain types, for a checkpoint."""
        return {
            "method": self.method.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "heldout_dsc": self.heldout_dsc,
            "average": {} if self.average is None else self.average.to_plain(),
        }

    def predicting(self) -> AbstractContextManager[None]:
        """Inside the `with` block the method predicts as the run's checkpoint will."""
        return nullcontext() if self.average is None else self.average.predicting()

    def load(self, content: dict[str, Any]) -> None:
        """Return to what `to_plain` gave. Raises ValueError where it is of something else."""
        try:
            self.method.load_state_dict(content["method"])
            for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.scaler.load_state_dict(content["scaler"])
            self.step = int(content["step"])
            self.heldout_dsc = list(content["heldout_dsc"])
            if self.average is not None:
                self.average.load(content["average"])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            if is_memory_error(error):
                raise
            raise ValueError(
                f"not a state of these settings ({first_line(error)}); delete the run folder and "
                "train again"
            ) from error


def build_state(config: Config, device: torch.device, sources: tuple[str, ...] = ()) -> State:
    """The method with its networks, its optimizers and the loss scaler, from the seed."""
    torch.manual_seed(config.seed)
    method = build_method(config, sources).to(device)
    optimizers = method.build_optimizers()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    return State(method, optimizers, scaler)


def load_state(state: State, run: Run, processes: Distributed) -> None:
    """Return to the run's last state, or the one before where the last cannot be read.

    Says what is another than when the state was saved and can change the last bits of a result.
    Raises ValueError where neither can, or where other processes shared its samples.
    """
    content = _load_last(run, state.device, processes)
    if content["processes"] != processes.size:
        raise ValueError(
            f"{run.folder}: trained by {content['processes']} processes, now there are "
            f"{processes.size}: start as many again, or a new run with --no-resume"
        )
    try:
        state.load(content)
    except ValueError as error:
        raise ValueError(f"{run.checkpoint}: {error}") from error
    different = name_differences(content["environment"], environment())
    if different and processes.first:
        print(
            f"{run.folder}: resumes with {', '.join(different)}: its weights may differ in the "
            "last bits from those of an unbroken run",
            flush=True,
        )


def has_state(run: Run) -> bool:
    """Whether there is something to resume from."""
    return run.checkpoint.is_file() or run.previous_checkpoint.is_file()


def _load_last(run: Run, device: torch.device, processes: Distributed) -> dict[str, Any]:
    needed = {"processes": int, "environment": dict}
    try:
        return load_checkpoint(run.checkpoint, device, **needed)
    except (ValueError, FileNotFoundError) as error:
        if not run.previous_checkpoint.is_file():
            raise
        content = load_checkpoint(run.previous_checkpoint, device, **needed)
        if processes.first:
            print(f"warning: {error}\n{run.folder}: resumes from the state before it", flush=True)
            with suppress(OSError):  # so that it does not take the place of the whole one
                run.checkpoint.replace(run.checkpoint.with_suffix(".damaged"))
        return content


class Checkpointer:
    """Writes the checkpoint of a run, and holds its log."""

    def __init__(
        self,
        config: Config,
        run: Run,
        split: Split,
        state: State,
        processes: Distributed,
        signatures: Mapping[str, Sequence[Signature]],
    ) -> None:
        """`signatures`: of the scans that train ("train") and are held out ("heldout")."""
        self.config, self.run, self.split, self.state, self.processes = (
            config, run, split, state, processes,
        )  # fmt: skip
        self._signatures = {kind: signatures_to_plain(of) for kind, of in signatures.items()}
        terms = tuple(state.method.terms)
        self.log = RunLog(run.folder, terms, state.step, config.tensorboard, active=processes.first)
        self._last = time.monotonic()
        self._saved = self._moment if has_state(run) else None

    @property
    def _moment(self) -> tuple[int, int]:
        return self.state.step, len(self.state.heldout_dsc)

    @property
    def kept(self) -> str:
        """What is on disk, for the message that ends a training."""
        if not self.processes.first:
            return "last.pt has the last state that the first process saved"
        if self._saved is None:
            return "no state is saved yet"
        return f"the state of step {self._saved[0]} is in last.pt, and the same command resumes"

    def __call__(self, force: bool = False) -> None:
        """Save now, or, unless forced, when `checkpoint_seconds` have passed.

        What is on disk already is not written again.
        """
        due = time.monotonic() - self._last >= self.config.checkpoint_seconds
        if not self.processes.first or not (force or due) or self._saved == self._moment:
            return
        self.log.flush()
        content = {**self._content(), **self.state.to_plain()}
        save_checkpoint(self.run.checkpoint, content, keep=self.run.previous_checkpoint)
        self._last, self._saved = time.monotonic(), self._moment

    def snapshot(self, epoch: int) -> None:
        """Keep what predicts after an epoch, for curves over training; no run resumes from it."""
        if not self.processes.first:
            return
        folder = self.run.folder / SNAPSHOTS
        folder.mkdir(exist_ok=True)
        weights = {"method": predicting_weights(self.state.to_plain()), "step": self.state.step}
        save_checkpoint(snapshot_file(self.run.folder, epoch), {**self._content(), **weights})

    def _content(self) -> dict[str, Any]:
        """What a checkpoint has beside the state."""
        return {
            "processes": self.processes.size,
            "config": to_plain(self.config),
            "split": to_plain(self.split),
            "split_hash": self.split.hash,
            "signatures": self._signatures,
            "environment": environment(),
            "seed": self.config.seed,
        }


def snapshot_file(folder: Path, epoch: int) -> Path:
    """Where a run keeps what predicts after an epoch."""
    return folder / SNAPSHOTS / f"epoch_{epoch:04d}.pt"


class NoCheckpoints:
    """Stands for the checkpointer where steps are taken of which nothing is kept."""

    processes = Distributed()

    def __call__(self, force: bool = False) -> None:
        """Save nothing."""


def save_checkpoint(path: Path, content: dict[str, Any], keep: Path | None = None) -> None:
    """Save tensors and plain types; anything else raises TypeError before a byte is written.

    `keep`: where the file that is there now stays.
    """
    _refuse_objects(content, "checkpoint")
    write_atomic(path, lambda handle: torch.save({"format": FORMAT, **content}, handle), keep)


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", **needed: type
) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote.

    `needed`: keys that it must have, with their types. Raises FileNotFoundError, or ValueError with
    the file's name where it is cut short, is no checkpoint, holds objects, is of another format or
    lacks a key; OSError and MemoryError where the way to it is at fault and not the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no checkpoint there; train the stage first")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load compares no checksums
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can raise nearly anything
        if not is_damage(error):
            raise
        raise ValueError(
            f"{path}: not a readable checkpoint ({first_line(error)}); "
            "delete the run folder and train again, or restore the file"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of format {FORMAT}; it was made by other code")
    for name, kind in needed.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{path}: has no {name}; it was made by other code; train again")
    return content


def _refuse_objects(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_objects(key, f"a key of {place}")
            _refuse_objects(item, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_objects(item, f"{place}[{index}]")
    elif type(value) not in PLAIN_TYPES:  # numpy.float64 is a float, but would not load
        raise TypeError(f"{place} is a {type(value).__name__}; only tensors and plain types")
