"""How long steps will take, from steps measured on the device that is to take them.

A few real training steps (the first is warm-up) and a few real predictions of each kind of model;
nothing of them is kept. What was measured is multiplied by what is left to do. It is an
estimate: cases differ in size, rounds may be fewer, and starting and preparing are not in it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from data.case import Center
from data.centers import load_centers
from data.dataset import StageDataset, target_mask
from data.prepare.prepared_case import PreparedCase, PrepareSettings, prepare_case, restore_prob
from data.readers import load_case
from data.readers.files import CaseFiles
from data.readers.masks import write_mask
from data.roi import paste
from data.splits import CaseName, list_all_cases
from engine.case_metrics import measure_case
from engine.checkpointing import build_state
from engine.inference import Model, input_box, predict_box
from engine.run_folders import config_hash
from engine.split_selection import select_splits
from engine.training import backward, load_crops
from methods import build_method
from reproduce.workflow.worker import heed_starter
from utils.config import Config
from utils.device import select_device, select_precision
from utils.distributed import World
from utils.files import write_json
from utils.postprocess import keep_components

SAMPLE_CASES = 3  # a step is measured on so many cases
TRIED_CASES = 12  # so many are looked at for lesions
MEASURED_STEPS = 6  # after one of warm-up
MEASURED_S = 30.0  # no further step is measured after so long
LEAVE_S = 10.0  # for the measuring process to end by itself


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step and of predicting a case; None: not measured."""

    step_s: float | None = None
    case_s: float | None = None


@dataclass(frozen=True)
class Found:
    """A case to measure on."""

    center: Center
    files: CaseFiles
    prepared: PreparedCase


def model_key(config: Config) -> str:
    """What decides how long a step takes: a hash without the data, the seed and the length."""
    stage = replace(config.stage, epochs=1)
    alike = replace(config, stage=stage, validate_epochs=0, patience=0, seed=0, precision="auto")
    return f"{config.stage.name}-{config.stage.variant}-{config_hash(alike)[:12]}"


def measure_speeds(
    configs: Iterable[Config], device: str, seconds: float | None = None
) -> Generator[tuple[str, Speed], None, None]:
    """`model_key` and speed on `device`, one after the other, measured in a process of its own.

    Own, so that the GPU's memory is free again for the workers, and that it can be ended: after
    `seconds` (None: no limit) the rest is left out. A model that cannot be measured (no memory,
    unreadable cases) has a `Speed` of None. In all these cases a line says so.
    """
    wanted = {model_key(config): replace(config, device=device) for config in configs}
    if not wanted:
        return
    end = None if seconds is None else time.monotonic() + seconds
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure_all, args=(theirs, wanted))
    process.start()
    theirs.close()
    try:
        while wanted:
            if not ours.poll(None if end is None else max(end - time.monotonic(), 0.0)):
                print(f"{len(wanted)} models not measured in {seconds:.0f} s", flush=True)
                break
            key, speed = ours.recv()
            del wanted[key]
            yield key, speed
    except (EOFError, ConnectionResetError):
        process.join()
        print(f"the measuring process ended (exit status {process.exitcode})", flush=True)
    finally:
        if wanted:
            process.terminate()
        process.join(LEAVE_S)
        process.kill()
        process.join()


def known_speeds(
    configs: Iterable[Config], device: str, memory: Path, seconds: float | None = None
) -> dict[str, Speed]:
    """`measure_speeds` of what the file `memory` does not hold for this device yet.

    Each goes there as soon as it is measured, so that the next call goes on where this one ended.
    """
    name = select_device(device)
    label = torch.cuda.get_device_name(name) if name.type == "cuda" else f"cpu {cpu_threads()}"
    all_known = json.loads(memory.read_text(encoding="utf-8")) if memory.is_file() else {}
    known = {key: Speed(**values) for key, values in all_known.get(label, {}).items()}
    wanted = {model_key(config): config for config in configs}
    missing = [config for key, config in wanted.items() if key not in known]
    if not missing:
        return known
    print(f"measuring a few steps of {len(missing)} models on {device} ({label})", flush=True)
    with contextlib.closing(measure_speeds(missing, device, seconds)) as measured:
        for key, speed in measured:
            if speed != Speed():
                known[key] = speed
                all_known[label] = {key: asdict(speed) for key, speed in known.items()}
                write_json(memory, all_known)
    return known


def cpu_threads() -> int:
    """How many threads a new process computes with."""
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))


def measure_speed(config: Config, found: Sequence[Found]) -> Speed:
    """The speed of a configuration's model on a few cases, on `config.device`."""
    device = select_device(config.device)
    config = replace(config, precision=select_precision(config.precision, device))
    method = build_method(config)
    state = build_state(method, config, device)
    dataset = StageDataset([item.prepared for item in found], config.stage, config.seed)
    steps = 1 + MEASURED_STEPS
    samples = iter(load_crops(dataset, config, World(), 0, steps * config.accumulate))
    state.network.train()

    def train() -> None:
        backward(config, method, state, samples, device)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)

    step_s = mean_seconds(train, steps, device)
    state.network.eval()
    stage = config.stage
    model = Model(
        config, method, state.network, device, config.precision, stage.max_voxels, stage.threshold
    )
    turns = itertools.cycle(found)
    return Speed(
        step_s, mean_seconds(lambda: predict_like(model, next(turns)), 1 + len(found), device)
    )


def predict_like(model: Model, item: Found) -> None:
    """What an evaluation does for a case, every round of it; the label stands for the result."""
    prepared, stage = item.prepared, model.stage
    case = load_case(item.center, item.files)
    box = input_box(stage, prepared.shape, prepared.boxes.get(stage.roi))
    for _ in range(stage.rounds):
        prob = predict_box(model, prepared.image_hu, box)
    restore_prob(paste(prob, box, prepared.shape), prepared)
    assert case.label is not None
    mask = keep_components(target_mask(case.label, stage.target))
    with tempfile.TemporaryDirectory() as folder:
        write_mask(Path(folder) / "mask.nii.gz", mask, case.grid)
    measure_case(mask, mask, case.spacing)


def find_cases(config: Config, known: dict[CaseName, Found]) -> list[Found]:
    """A few training cases that the stage can learn from, prepared in memory (kept in `known`)."""
    centers = load_centers(config.centers)
    split = select_splits(config, centers)[0]
    files = list_all_cases({name: centers[name] for name in split.sources})
    found = []
    for name in spread(split.train_cases, TRIED_CASES):
        if name not in known:
            center = centers[name[0]]
            (of_case,) = (f for f in files[name[0]] if f.case_id == name[1])
            settings = PrepareSettings(spacing=config.spacing)
            prepared = prepare_case(load_case(center, of_case), settings)
            known[name] = Found(center, of_case, prepared)
        if known[name].prepared.has_label and config.stage.target in known[name].prepared.boxes:
            found.append(known[name])
        if len(found) == SAMPLE_CASES:
            break
    return found


def _measure_all(connection: Connection, wanted: Mapping[str, Config]) -> None:
    heed_starter()
    known: dict[tuple[float, ...], dict[CaseName, Found]] = {}
    for key, config in wanted.items():
        try:
            found = find_cases(config, known.setdefault(config.spacing, {}))
            speed = measure_speed(config, found)
        except (ValueError, RuntimeError, OSError) as error:  # torch's lack of memory is the second
            print(f"{key} cannot be measured: {error}", flush=True)
            speed = Speed()
        connection.send((key, speed))


def mean_seconds(action: Callable[[], None], times: int, device: torch.device) -> float:
    """Mean seconds of an action without its first time, unless that took too long already."""
    taken: list[float] = []
    while len(taken) < times and sum(taken) < MEASURED_S:
        started = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return float(np.mean(taken[1:] or taken))


def spread(names: Sequence[CaseName], count: int) -> Iterator[CaseName]:
    """At most `count` of the names, evenly over all of them, far ones first."""
    count = min(count, len(names))
    places = [i * len(names) // count for i in range(count)]
    for start in range(SAMPLE_CASES):
        yield from (names[i] for i in places[start::SAMPLE_CASES])
