"""`fit`: the only training loop. Resumes, mixed precision, several processes, poly decay, log."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.centers import load_centers
from data.dataset import Crop, StageDataset, load_on_device, make_sample, sample_seed
from data.prepare.prepared_case import PreparedCase
from data.splits import Split
from engine.checkpointing import Saver, State, build_state, load_state
from engine.early_stopping import Watch
from engine.run_folders import Run, locked, mark_done, open_runs
from engine.split_selection import (
    heldout_cases,
    keep_prepared,
    prepare_splits,
    select_splits,
    split_cases,
)
from methods import Method, build_method
from utils.config import StoppedError
from utils.device import autocast, select_device, select_precision
from utils.distributed import World, join_world
from utils.files import remove_partial_files
from utils.progress import Progress
from utils.stages import Config

MIN_LOSS_SCALE = 1.0  # fp16: with gradients still infinite here, the scale is not the cause
SIGTERM_EXIT = 128 + signal.SIGTERM


class NonFiniteLossError(StoppedError):
    """A loss term or a gradient became NaN or infinite; the last good state is on disk."""


def fit(config: Config) -> list[Run]:
    """Train the stage on each split that the configuration asks for; return the run folders.

    Without sources and target: every leave-one-center-out fold (Sec. IV-C), one after the other.
    Folds that are done are passed over, an unfinished one goes on where it was.
    Raises ValueError for wrong settings, NonFiniteLossError, and SystemExit(143) after SIGTERM.
    """
    device = select_device(config.device)
    config = replace(config, precision=select_precision(config.precision, device, training=True))
    # What a user can mend ends here, in every process: before anything is written, and before
    # one of them could wait for another that has left.
    build_method(config)
    centers = load_centers(config.centers)
    splits = select_splits(config, centers)
    with join_world(device) as world:
        if world.first:  # the first process prepares, the others then read
            prepared = prepare_splits(config, centers, splits)
        world.wait()
        if not world.first:
            prepared = prepare_splits(config, centers, splits)
        splits = [keep_prepared(split, prepared) for split in splits]
        runs = open_runs(config, splits) if world.first else []
        world.wait()
        time_ = world.from_first(runs[0].time if runs else "")
        if not world.first:
            runs = open_runs(replace(config, time=time_), splits)
        for run, split in zip(runs, splits, strict=True):
            if run.done:
                _say(world, f"{run.folder}: done already")
                continue
            train_split(config, run, split, prepared, world)
    return runs


def train_split(
    config: Config,
    run: Run,
    split: Split,
    prepared: dict[str, list[PreparedCase]],
    world: World,
) -> None:
    """Train one run to its end and mark it done."""
    device = select_device(config.device)
    method = build_method(config)
    dataset = StageDataset(split_cases(split, prepared), config.stage, config.seed)
    watch = Watch(config, heldout_cases(split, prepared))
    if dataset.left_out:
        _say(world, f"{config.stage.name}: nothing to learn in {', '.join(dataset.left_out)}")
    state = build_state(method, config, device)
    lock = locked(run.folder) if world.first else _unlocked()
    with lock, _sigterm() as terminated:
        if world.first:
            remove_partial_files(run.folder)
        if run.checkpoint.is_file():
            load_state(state, run, world)
            _say(world, f"{run.folder}: goes on from step {state.step}")
        else:
            _say(world, f"{run.folder}: {len(dataset)} cases, {config.precision} on {device}")
        save = Saver(config, run, split, state, world)
        try:
            train_steps(config, method, state, dataset, save, watch, terminated)
        finally:
            save.log.close()
        if world.first:
            mark_done(run.folder)
    world.wait()


def total_steps(config: Config, cases: int, world_size: int) -> int:
    """Optimiser steps of a run: every case once an epoch."""
    return math.ceil(config.stage.epochs * cases / (world_size * config.accumulate))


def train_steps(  # noqa: PLR0913 - everything that the one loop works with
    config: Config,
    method: Method,
    state: State,
    dataset: StageDataset,
    save: Saver,
    watch: Watch,
    terminated: list[bool],
) -> None:
    """Steps `state.step` to the last, or until the held-out Dice no longer rises.

    SIGTERM saves and leaves with exit status 143.
    """
    world, device = save.world, next(state.network.parameters()).device
    steps = total_steps(config, len(dataset), world.size)
    per_step = world.size * config.accumulate
    samples = iter(load_crops(dataset, config, world, state.step * per_step, steps * per_step))
    progress = Progress(config.stage.name, steps, state.step) if world.first else None
    state.network.train()
    while state.step < steps and not watch.has_plateaued(state.heldout_dsc):
        lr = config.lr * (1 - state.step / steps) ** config.lr_power
        terms, cases = backward(config, method, state, samples, device)
        world.average_gradients(state.network.parameters())
        if not state.scaler.is_enabled() or state.scaler.get_scale() < MIN_LOSS_SCALE:
            # the scaler of fp16 skips a step of infinite gradients and lowers the scale
            gradients = [p.grad for p in state.network.parameters() if p.grad is not None]
            terms["grad_norm"] = nn.utils.get_total_norm(gradients)
        values = check_finite(terms, cases, save)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        before = state.step * per_step // len(dataset)
        state.step += 1
        epoch = state.step * per_step // len(dataset)
        save.log.write(state.step, epoch, lr, values, cases)
        if progress is not None:
            progress.advance(values)
        if epoch > before:
            method.after_epoch(state.network, epoch)
        if epoch > before and watch.is_due(epoch):
            note_heldout(method, state, save, watch)
        if not world.all_true(not terminated, device):
            save(force=True)
            raise SystemExit(SIGTERM_EXIT)
        if epoch > before or state.step == steps:
            save(force=state.step == steps or watch.has_plateaued(state.heldout_dsc))
    if progress is not None:
        progress.close()


def note_heldout(method: Method, state: State, save: Saver, watch: Watch) -> None:
    """Measure the held-out cases, in the first process for all, and write heldout.csv."""
    dice = str(watch.measure(method, state.network)) if save.world.first else ""
    state.heldout_dsc.append(float(save.world.from_first(dice)))
    if save.world.first:
        watch.write(save.run.folder / "heldout.csv", state.heldout_dsc)
        print(f"held-out cases of the sources: Dice {state.heldout_dsc[-1]:.2f}", flush=True)


def load_crops(
    dataset: StageDataset, config: Config, world: World, start: int, stop: int
) -> DataLoader[Crop]:
    """This process's crops of the running indices `start` to `stop`.

    Process r of W with A samples a step takes samples a W + r of each step, so that two processes
    see what one process with two accumulated samples sees.
    """
    workers = config.workers
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start + world.rank, stop, world.size),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def backward(
    config: Config,
    method: Method,
    state: State,
    samples: Iterator[Crop],
    device: torch.device,
) -> tuple[dict[str, Tensor], list[str]]:
    """Accumulate the gradient of one step; return the mean terms and the cases that gave them."""
    sums: dict[str, Tensor] = {}
    cases = []
    for _ in range(config.accumulate):
        crop = next(samples)
        generator = torch.Generator().manual_seed(sample_seed(config.seed, crop.index, 1))
        torch.manual_seed(sample_seed(config.seed, crop.index, 2))  # dropout
        with torch.no_grad():
            image, label = load_on_device(crop, device)
            image, label = method.augment(image, label, crop.spacing, generator)
            sample = make_sample(image, label, crop, config.stage)
        with autocast(device, config.precision):
            terms = method.loss(state.network, sample, generator)
        total = weighted_sum(terms, config.stage.weights) / config.accumulate
        state.scaler.scale(total).backward()
        cases.append(f"{crop.center}/{crop.case_id}")
        for name, term in {**terms, "total": total * config.accumulate}.items():
            sums[name] = sums.get(name, 0.0) + term.detach() / config.accumulate
    return sums, cases


def weighted_sum(terms: dict[str, Tensor], weights: Any) -> Tensor:
    """Eq. 11: the sum of the terms by their weights; a term without a weight is an error."""
    unknown = sorted(set(terms) - set(weights))
    if unknown:
        raise ValueError(f"loss terms without a weight: {', '.join(unknown)}")
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def check_finite(terms: dict[str, Tensor], cases: Sequence[str], save: Saver) -> dict[str, float]:
    """Terms as numbers, averaged over the processes.

    A term or gradient that is not finite stops the run; the state before this step is saved.
    """
    values = torch.stack(list(terms.values()))
    own_finite = bool(values.isfinite().all())
    if not save.world.all_true(own_finite, values.device):
        save(force=True)
        shown = ", ".join(f"{name} {float(term):g}" for name, term in terms.items())
        everywhere = "; ".join(save.world.gather(f"{', '.join(cases)} ({shown})"))
        raise NonFiniteLossError(
            f"{save.run.folder}: step {save.state.step + 1}: loss or gradient is not finite at "
            f"{everywhere}; the state before this step is kept in last.pt. "
            "Check that case, or lower --lr, or use --precision fp32"
        )
    return dict(zip(terms, save.world.share(values).tolist(), strict=True))


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
def _unlocked() -> Iterator[None]:
    yield


def _say(world: World, text: str) -> None:
    if world.first:
        print(text, flush=True)
