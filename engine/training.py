"""`fit`: the only training loop. Resumes, mixed precision, several processes, poly decay, log."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import torch
from torch.utils.data import DataLoader

from data.centers import load_centers
from data.dataset import Crop, StageDataset
from data.prepare.prepared_case import PreparedCase
from data.prepare.signature import signatures_of
from data.splits import Split
from engine.checkpointing import Checkpointer, State, build_state, load_state
from engine.early_stopping import EarlyStopping
from engine.external import check_training, train_external
from engine.run_folders import (
    Run,
    locked,
    mark_done,
    open_runs,
    refuse_changed,
    written_by_training,
)
from engine.split_selection import (
    heldout_cases,
    keep_prepared,
    prepare_splits,
    select_splits,
    split_cases,
)
from engine.step import TrainingStep
from methods import EXTERNAL, Method, check_method
from utils.config import Config
from utils.device import select_device, select_precision
from utils.distributed import Distributed, join_processes
from utils.files import remove_partial_files
from utils.progress import Progress

SIGTERM_EXIT = 128 + signal.SIGTERM


def fit(config: Config) -> list[Run]:
    """Train the stage on each split that the configuration asks for; return the run folders.

    Without sources and target: every leave-one-center-out fold (Sec. IV-C), one after the other.
    Folds that are done are passed over, an unfinished one resumes.
    Raises ValueError for wrong settings, NonFiniteLossError, and SystemExit(143) after SIGTERM.
    """
    device = select_device(config.device)
    external = config.method in EXTERNAL
    if external:
        check_training(config)
    else:
        precision = select_precision(config.precision, device, training=True)
        config = replace(config, precision=precision)
    # What a user can fix ends here, in every process: before anything is written, and before
    # one of them could wait for another that has ended.
    centers = load_centers(config.centers)
    splits = select_splits(config, centers)
    check_method(config, splits[0].sources)
    with join_processes(device) as processes:
        if processes.first:  # the first process prepares, the others then read
            prepared = prepare_splits(config, centers, splits)
        processes.wait()
        if not processes.first:
            prepared = prepare_splits(config, centers, splits)
        splits = [keep_prepared(split, prepared) for split in splits]
        runs = open_runs(config, splits) if processes.first else []
        processes.wait()
        time_ = processes.from_first(runs[0].time if runs else "")
        if not processes.first:
            runs = open_runs(replace(config, time=time_), splits)
        for run, split in zip(runs, splits, strict=True):
            if run.done:
                refuse_changed(run)
                _say(processes, f"{run.folder}: done already")
                continue
            if external:
                with sigterm_exits():
                    train_external(config, run, split, prepared, centers)
                continue
            train_split(config, run, split, prepared, processes)
    return runs


def train_split(
    config: Config,
    run: Run,
    split: Split,
    prepared: dict[str, list[PreparedCase]],
    processes: Distributed,
) -> None:
    """Train one run to its end and mark it done."""
    device = select_device(config.device)
    state = build_state(config, device, split.sources)
    cases, heldout = split_cases(split, prepared), heldout_cases(split, prepared)
    dataset = make_dataset(config, state.method, cases)
    stopping = EarlyStopping(config, heldout)
    signatures = {"train": signatures_of(cases), "heldout": signatures_of(heldout)}
    if dataset.left_out:
        _say(processes, f"{config.stage.name}: nothing to learn in {', '.join(dataset.left_out)}")
    lock = locked(run.folder) if processes.first else _unlocked()
    with lock, _sigterm() as terminated:
        if processes.first:
            remove_partial_files(run.folder)
        if run.checkpoint.is_file():
            load_state(state, run, processes)
            _say(processes, f"{run.folder}: resumes from step {state.step}")
        else:
            _say(
                processes,
                f"{run.folder}: {len(dataset)} cases, "
                f"{total_steps(config, dataset, processes.size)} steps of "
                f"{samples_per_step(config, dataset, processes.size)} samples, "
                f"{config.precision} on {device}",
            )
        save = Checkpointer(config, run, split, state, processes, signatures)
        try:
            train_steps(config, state, dataset, save, stopping, terminated)
        finally:
            save.log.close()
        if processes.first:
            mark_done(run.folder, written_by_training(run))
    processes.wait()


def make_dataset(config: Config, method: Method, cases: Sequence[PreparedCase]) -> StageDataset:
    """The training samples of a method, in the order that its `sampling` asks for."""
    return StageDataset(cases, config.stage, config.seed, method.sampling, method.sources)


def samples_per_step(config: Config, dataset: StageDataset, process_count: int) -> int:
    """Samples of one optimizer step, of all processes together."""
    return process_count * config.accumulate * dataset.group


def total_steps(config: Config, dataset: StageDataset, process_count: int) -> int:
    """Optimizer steps of a run: as many samples as every case gives, once an epoch.

    A method that takes one sample of each source in a step therefore makes fewer steps, and sees
    as many samples as the others.
    """
    samples = config.stage.epochs * len(dataset)
    return math.ceil(samples / samples_per_step(config, dataset, process_count))


def train_steps(
    config: Config,
    state: State,
    dataset: StageDataset,
    save: Checkpointer,
    stopping: EarlyStopping,
    terminated: list[bool],
) -> None:
    """Steps `state.step` to the last, or until the held-out Dice no longer rises.

    SIGTERM saves and exits with status 143.
    """
    processes, method, device = save.processes, state.method, state.device
    steps = total_steps(config, dataset, processes.size)
    per_step = samples_per_step(config, dataset, processes.size)
    crops = iter(load_crops(dataset, config, processes, state.step, steps))
    progress = Progress(config.stage.name, steps, state.step) if processes.first else None
    method.train()
    while state.step < steps and not stopping.has_plateaued(state.heldout_dsc):
        step = TrainingStep(config, state, save, steps)
        samples = step.take(crops, dataset.group * config.accumulate)
        method.training_step(samples, step)
        values = step.finish()
        before = state.step * per_step // len(dataset)
        state.step += 1
        epoch = state.step * per_step // len(dataset)
        method.after_step(step)
        save.log.write(state.step, epoch, step.lr, values, step.cases)
        if progress is not None:
            progress.advance(values)
        if epoch > before:
            method.after_epoch(epoch)
        if epoch > before and stopping.is_due(epoch):
            note_heldout(state, save, stopping)
        if not processes.all_true(not terminated, device):
            save(force=True)
            raise SystemExit(SIGTERM_EXIT)
        if epoch > before or state.step == steps:
            save(force=state.step == steps or stopping.has_plateaued(state.heldout_dsc))
    if progress is not None:
        progress.close()


def note_heldout(state: State, save: Checkpointer, stopping: EarlyStopping) -> None:
    """Measure the held-out cases, in the first process for all, and write heldout.csv."""
    dice = str(stopping.measure(state.method)) if save.processes.first else ""
    state.heldout_dsc.append(float(save.processes.from_first(dice)))
    if save.processes.first:
        stopping.write(save.run.folder / "heldout.csv", state.heldout_dsc)
        print(f"held-out cases of the sources: Dice {state.heldout_dsc[-1]:.2f}", flush=True)


def load_crops(
    dataset: StageDataset, config: Config, processes: Distributed, start: int, stop: int
) -> DataLoader[Crop]:
    """This process's crops of the steps `start` to `stop`.

    Process r of W with A groups a step takes groups a W + r of each step, so that two processes
    see what one process with twice the groups sees. A group is one sample, or one of each source.
    """
    workers = config.workers
    size, group = processes.size, dataset.group
    groups = range(
        start * size * config.accumulate + processes.rank, stop * size * config.accumulate, size
    )
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=[g * group + k for g in groups for k in range(group)],
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


@contextmanager
def _sigterm() -> Iterator[list[bool]]:
    """A list that SIGTERM appends to, instead of ending the process."""
    received: list[bool] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(True)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """SIGTERM ends this block, with status 143, so that what it has started ends with it."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(SIGTERM_EXIT)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _unlocked() -> Iterator[None]:
    yield


def _say(processes: Distributed, text: str) -> None:
    if processes.first:
        print(text, flush=True)
