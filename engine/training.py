"""`fit`: the only training loop. Resumes, mixed precision, several processes, poly decay, log."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import torch

from data.case import DataError
from data.centers import load_centers
from data.dataset import StageDataset
from data.prepare.prepared_case import PreparedCase
from data.prepare.signature import signatures_of
from data.roi import Box
from data.splits import CaseName, Split
from engine.checkpointing import (
    Checkpointer,
    State,
    build_state,
    has_state,
    load_state,
)
from engine.early_stopping import EarlyStopping
from engine.external import check_training, train_external
from engine.loading import load_crops
from engine.predicted_crops import find_predictions, note_predictions, predicted_boxes
from engine.run_folders import (
    Run,
    folder_name,
    locked,
    mark_done,
    new_time,
    open_runs,
    refuse_changed,
    written_by_training,
)
from engine.samples import SampleFeed
from engine.split_selection import (
    heldout_cases,
    keep_prepared,
    prepare_splits,
    select_splits,
    split_cases,
)
from engine.step import NonFiniteLossError, TrainingStep
from engine.weight_average import WeightAverage
from methods import EXTERNAL, Method, build_method, check_method
from models.backbone import ResidualEncoderDecoder
from models.recompute import Recompute
from utils.config import Config, StoppedError
from utils.device import select_device, select_precision, tune_convolutions
from utils.distributed import Distributed, join_processes
from utils.errors import describe_error, is_memory_error
from utils.files import check_folder
from utils.leftovers import remove_leftovers, unfinished_path
from utils.progress import Progress
from utils.signals import Noted, SignalReceived, exit_status, noted_signals, say_ended


def fit(config: Config) -> list[Run]:
    """Train the stage on each split that the configuration asks for; return the run folders.

    Without sources and target: every leave-one-center-out fold (Sec. IV-C), one after the other.
    Folds that are done are passed over, an unfinished one resumes.
    Raises ValueError for wrong settings, StoppedError where the state is saved but the training
    cannot go on, and SystemExit(143) after SIGTERM (130 after Ctrl-C, 129 after SIGHUP).
    """
    check_folder("--checkpoints", config.checkpoints)
    check_folder("--cache", config.cache, written=False)
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
    for split in splits:  # their names hold those of the centers, which may be long
        name = folder_name(config, config.time or new_time(), split.sources, split.fold)
        check_folder("--checkpoints", unfinished_path(config.checkpoints / name))
    check_method(config, splits[0].sources)
    with join_processes(device) as processes:
        if processes.first:  # the first process prepares, the others then read
            prepared = prepare_splits(config, centers, splits)
        processes.wait()
        if not processes.first:
            prepared = prepare_splits(config, centers, splits)
        splits = [keep_prepared(split, prepared) for split in splits]
        for split in splits if not external else ():
            check_split(config, split, prepared)
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
                with ended_by_signals():
                    train_external(config, run, split, prepared, centers)
                continue
            train_split(config, run, split, prepared, processes)
    return runs


def check_split(config: Config, split: Split, prepared: dict[str, list[PreparedCase]]) -> None:
    """Raise ValueError, before a run folder is made, where the cases cannot train the stage."""
    cases = split_cases(split, prepared)
    with torch.device("meta"):
        make_dataset(config, build_method(config, split.sources), cases)
    find_predictions(config, split)
    EarlyStopping(config, heldout_cases(split, prepared))
    for case in cases:
        if min(case.shape) < config.stage.stride:
            raise ValueError(
                f"--stride {config.stage.stride}: larger than {case.center}/{case.case_id}, which "
                f"is {' x '.join(map(str, case.shape))} voxels"
            )


def train_split(
    config: Config,
    run: Run,
    split: Split,
    prepared: dict[str, list[PreparedCase]],
    processes: Distributed,
) -> None:
    """Train one run to its end and mark it done."""
    device = select_device(config.device)
    tune_convolutions(device, shapes_repeat=config.stage.roi == "volume")
    state = build_state(config, device, split.sources)
    say = partial(_say, processes)
    set_checkpointing(state.method, config.checkpointing, lambda text: say(f"{run.folder}: {text}"))
    cases, heldout = split_cases(split, prepared), heldout_cases(split, prepared)
    predictions = find_predictions(config, split)
    dataset = make_dataset(config, state.method, cases, predicted_boxes(predictions, cases))
    stopping = EarlyStopping(config, heldout)
    if config.average_epochs > 0:
        per_epoch = len(dataset) / samples_per_step(config, dataset, processes.size)
        state.average = WeightAverage(state.method, config.average_epochs, per_epoch)
    signatures = {"train": signatures_of(cases), "heldout": signatures_of(heldout)}
    if dataset.left_out:
        _say(processes, f"{config.stage.name}: nothing to learn in {', '.join(dataset.left_out)}")
    lock = locked(run.folder) if processes.first else _unlocked()
    with lock, noted_signals() as received:
        if processes.first:
            remove_leftovers(run.folder, alone=True)
            note_predictions(run, predictions)
        if has_state(run):
            load_state(state, run, processes)
            _say(processes, f"{run.folder}: resumes from step {state.step}")
        else:
            _say(
                processes,
                f"{run.folder}: {len(dataset)} cases, "
                f"{total_steps(config, dataset, processes.size)} steps of "
                f"{samples_per_step(config, dataset, processes.size)} samples, "
                f"{config.precision} on {device}, checkpointing {config.checkpointing}",
            )
        save = Checkpointer(config, run, split, state, processes, signatures)
        try:
            train_steps(config, state, dataset, save, stopping, received)
        except OSError as error:
            error.add_note(save.kept)
            raise
        finally:
            save.log.close()
        if processes.first:
            mark_done(run.folder, written_by_training(run))
    processes.wait()


def set_checkpointing(method: Method, mode: str, say: Callable[[str], None] | None = None) -> None:
    """Let all backbones of a method compute activations again by one rule (`Recompute`)."""
    rule = Recompute(mode, say=say)
    for part in method.modules():
        if isinstance(part, ResidualEncoderDecoder):
            part.recompute = rule


def make_dataset(
    config: Config,
    method: Method,
    cases: Sequence[PreparedCase],
    around: Mapping[CaseName, Box] | None = None,
) -> StageDataset:
    """The training samples of a method, in the order that its `sampling` asks for.

    `around`: what each case is cropped around; None: its label.
    """
    sampling, sources = method.sampling, method.sources
    return StageDataset(cases, config.stage, config.seed, sampling, sources, around)


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
    received: Noted,
) -> None:
    """Steps `state.step` to the last, or until the held-out Dice no longer rises.

    SIGTERM, SIGINT and SIGHUP save and exit with status 143, 130 and 129: after the step that they
    come in, and at once while held-out cases are measured.
    """
    processes, method = save.processes, state.method
    steps = total_steps(config, dataset, processes.size)
    per_step = samples_per_step(config, dataset, processes.size)
    crops = load_crops(dataset, config, processes, state.step, steps)
    feed = SampleFeed(config, state, crops, dataset.group * config.accumulate)
    progress = Progress(config.stage.name, steps, state.step) if processes.first else None
    method.train()
    while True:
        if len(state.heldout_dsc) < stopping.count_due(state.step, per_step, len(dataset)):
            save(force=True)  # a measure can take longer than an epoch
            note_heldout(state, save, stopping, received)
        number = processes.largest(received[0] if received else 0)
        if number:
            save(force=True)
            say_ended(number, f"saved at step {state.step} of {steps}; the same command resumes")
            raise SystemExit(exit_status(number))
        if state.step >= steps or stopping.has_plateaued(state.heldout_dsc):
            break
        step = TrainingStep(config, state, save, steps)
        with state_kept(step):
            samples = step.take_from(feed)
            method.training_step(samples, step)
            values = step.finish()
        before = state.step * per_step // len(dataset)
        state.step += 1
        epoch = state.step * per_step // len(dataset)
        method.after_step(step)
        if state.average is not None:
            state.average.update()
        save.log.write(state.step, epoch, step.lr, values, step.cases)
        if progress is not None:
            progress.advance(values)
        if epoch > before:
            end_epoch(state, save, before, epoch)
    save(force=True)
    if progress is not None:
        progress.close()


def end_epoch(state: State, save: Checkpointer, before: int, epoch: int) -> None:
    """What follows a step that has ended `epoch`, and perhaps others after `before`."""
    state.method.after_epoch(epoch)
    save()
    every = save.config.snapshot_epochs
    if every and epoch // every > before // every:
        save.snapshot(epoch)


def note_heldout(
    state: State, save: Checkpointer, stopping: EarlyStopping, received: Noted
) -> None:
    """Measure the held-out cases, in the first process for all, and write heldout.csv.

    A signal gives it up; the resumed run measures again.
    """
    dice = ""
    if save.processes.first:
        with suppress(SignalReceived), received.ending_at_once(), state.predicting():
            dice = str(stopping.measure(state.method))
        state.method.train()
    dice = save.processes.from_first(dice)
    if not dice:
        return
    state.heldout_dsc.append(float(dice))
    if save.processes.first:
        stopping.write(save.run.folder / "heldout.csv", state.heldout_dsc)
        print(f"held-out cases of the sources: Dice {state.heldout_dsc[-1]:.2f}", flush=True)


@contextmanager
def state_kept(step: TrainingStep) -> Iterator[None]:
    """What is not the code's fault inside ends the training with its state saved, and says so."""
    try:
        yield
    except Exception as error:
        outside = isinstance(error, (OSError, DataError, StoppedError)) or is_memory_error(error)
        reason = describe_error(error)
        if not outside or reason is None or isinstance(error, NonFiniteLossError):
            raise  # the last has saved already
        if is_memory_error(error) and step.shapes:
            reason += (
                f"; the largest crop of this step is {step.largest_crop}; take smaller ones by "
                "--max-voxels (a new run, since the results change)"
            )
            if step.config.checkpointing != "on":
                reason += ", or resume with --checkpointing on, which needs less"
        message = f"{step.save.run.folder}: step {step.number}: {reason}; {step.keep_state()}"
        raise StoppedError(message) from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """A signal ends this block at once, with its status, and what the block has started."""
    with noted_signals() as received:
        try:
            with received.ending_at_once():
                yield
        except SignalReceived:
            say_ended(received[0])
            raise SystemExit(received.status) from None


@contextmanager
def _unlocked() -> Iterator[None]:
    yield


def _say(processes: Distributed, text: str) -> None:
    if processes.first:
        print(text, flush=True)
