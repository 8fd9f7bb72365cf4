"""How long a step of each kind of model takes: as finished steps have logged, or measured now.

Measured are a few real training steps (the first is warm-up) and a few predictions; nothing of
them is kept. It is an estimate: cases differ in size, rounds may be fewer, and reading, writing and
measuring cases are in what was logged alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.centers import load_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings, prepare_case
from data.readers import load_case
from data.splits import CaseName, list_all_cases
from engine.checkpointing import NoCheckpoints, build_state
from engine.loading import load_crops
from engine.run_folders import config_hash
from engine.split_selection import select_splits
from engine.step import TrainingStep
from engine.training import make_dataset
from methods import EXTERNAL
from reproduce.workflow.plan_file import read_status
from utils.config import Config
from utils.device import autocast, select_device, select_precision
from utils.distributed import Distributed
from utils.files import read_json, write_json
from utils.signals import held_signals, obey_parent

SAMPLE_CASES = 3  # a step is measured on so many cases
TRIED_CASES = 12  # so many are looked at for lesions
MEASURED_STEPS = 6  # after one of warm-up
MEASURED_S = 30.0  # no further step is measured after so long
EXIT_S = 10.0  # for the measuring process to end by itself


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step and of predicting a case; None: not known."""

    step_s: float | None = None
    case_s: float | None = None


def model_key(config: Config) -> str:
    """What decides how long a step takes: a hash without the data, the seed and the length."""
    stage = replace(config.stage, epochs=1)
    alike = replace(config, stage=stage, validate_epochs=0, patience=0, seed=0, precision="auto")
    return f"{config.stage.name}-{config.method}-{config_hash(alike)[:12]}"


def logged_speeds(out: Path, label: str) -> dict[str, Speed]:
    """By model, the mean seconds of what finished steps of this experiment did on such a device."""
    sums: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for path in sorted((out / "steps").glob("*.json")):
        status = read_status(out, path.stem)
        facts = status.get("facts") or {}
        if status.get("status") == "done" and facts.get("label") == label and facts["count"] > 0:
            key = (facts["model"], facts["field"])
            sums.setdefault(key, []).append((status["seconds"], facts["count"]))
    speeds: dict[str, Speed] = {}
    for (model, field), parts in sums.items():
        mean = sum(seconds for seconds, _ in parts) / sum(count for _, count in parts)
        speeds[model] = replace(speeds.get(model, Speed()), **{field: mean})
    return speeds


def known_speeds(
    configs: Sequence[Config], device: str, label: str, out: Path, seconds: float | None = None
) -> dict[str, Speed]:
    """By model: what was logged, what OUT/speeds.json remembers, and the rest measured now.

    `label`: of `device`. Measuring ends after `seconds` (None: no limit); 0: nothing is measured.
    """
    memory = out / "speeds.json"
    remembered = _remembered(memory)
    known = {key: Speed(**values) for key, values in remembered.get(label, {}).items()}
    logged = logged_speeds(out, label)
    wanted = {model_key(config): config for config in configs}
    missing = {
        k: c
        for k, c in wanted.items()
        if k not in known and k not in logged and c.method not in EXTERNAL
    }
    if missing and seconds != 0:
        print(f"measuring a few steps of {len(missing)} models on {device} ({label})", flush=True)
        with closing(measure_speeds(missing, device, seconds)) as measured:
            for key, speed in measured:
                if speed != Speed():
                    known[key] = speed
                    remembered[label] = {key: asdict(speed) for key, speed in known.items()}
                    write_json(memory, remembered)
    for key, speed in logged.items():
        other = known.get(key, Speed())
        step_s = other.step_s if speed.step_s is None else speed.step_s
        known[key] = Speed(step_s, other.case_s if speed.case_s is None else speed.case_s)
    return known


def _remembered(path: Path) -> dict[str, Any]:
    """speeds.json; {}, and a line, where it is damaged: speeds are measured again."""
    try:
        found = read_json(path, "speeds are measured again") if path.is_file() else {}
        for speeds in found.values():
            for values in speeds.values():
                Speed(**values)
    except (ValueError, TypeError, AttributeError) as error:
        print(f"warning: {path}: is damaged, speeds are measured again ({error})", flush=True)
        return {}
    return found


def measure_speeds(
    wanted: Mapping[str, Config], device: str, seconds: float | None = None
) -> Generator[tuple[str, Speed], None, None]:
    """Key and speed of each configuration, one after the other, in a process of its own.

    Own, so that the GPU's memory is free again for the steps, and that it can be ended: after
    `seconds` (None: no limit) the rest is left out. A model that cannot be measured (no memory,
    unreadable cases) has a `Speed` of None. In all these cases a line says so.
    """
    left = dict(wanted)
    end = None if seconds is None else time.monotonic() + seconds
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    configs = {key: replace(config, device=device) for key, config in wanted.items()}
    process = context.Process(target=_measure_all, args=(theirs, configs))
    with held_signals():
        process.start()
    theirs.close()
    try:
        while left:
            if not ours.poll(None if end is None else max(end - time.monotonic(), 0.0)):
                print(f"{len(left)} models not measured in {seconds:.0f} s", flush=True)
                break
            key, speed = ours.recv()
            del left[key]
            yield key, speed
    except (EOFError, ConnectionResetError):
        process.join()
        print(f"the measuring process ended (exit status {process.exitcode})", flush=True)
    finally:
        if left:
            process.terminate()
        process.join(EXIT_S)
        process.kill()
        process.join()


def measure_speed(config: Config, cases: Sequence[PreparedCase]) -> Speed:
    """The speed of a configuration's model on a few cases, on `config.device`."""
    device = select_device(config.device)
    precision = select_precision(config.precision, device, training=False)
    config = replace(config, precision=select_precision(config.precision, device, training=True))
    state = build_state(config, device, tuple(dict.fromkeys(case.center for case in cases)))
    method, stage = state.method, config.stage
    dataset = make_dataset(config, method, cases)
    steps = 1 + MEASURED_STEPS
    crops = iter(load_crops(dataset, config, Distributed(), 0, steps))
    method.train()
    images: list[torch.Tensor] = []

    def train() -> None:
        step = TrainingStep(config, state, NoCheckpoints(), steps)  # type: ignore[arg-type]
        samples = step.take(crops, dataset.group * config.accumulate)
        images[:] = method.add_channel([samples[0].image], samples[0], torch.Generator())
        method.training_step(samples, step)
        step.finish()
        state.step += 1

    def predict() -> None:
        with torch.inference_mode(), autocast(device, precision):
            method.predict(images[0])

    step_s = mean_seconds(train, steps, device)
    method.eval()
    times = stage.rounds * 2 ** len(stage.mirror_axes)
    return Speed(step_s, times * mean_seconds(predict, 3, device))


def find_cases(config: Config, known: dict[CaseName, PreparedCase]) -> list[PreparedCase]:
    """A few training cases that the stage can learn from, prepared in memory (kept in `known`)."""
    centers = load_centers(config.centers)
    split = select_splits(config, centers)[0]
    files = list_all_cases({name: centers[name] for name in split.sources})
    found: list[PreparedCase] = []
    for name in spread(split.train_cases, TRIED_CASES):
        if name not in known:
            (of_case,) = (f for f in files[name[0]] if f.case_id == name[1])
            settings = PrepareSettings(spacing=config.spacing)
            known[name] = prepare_case(load_case(centers[name[0]], of_case), settings)
        if known[name].has_label and config.stage.target in known[name].boxes:
            found.append(known[name])
        if len(found) == SAMPLE_CASES:
            break
    return found


def _measure_all(connection: Connection, wanted: Mapping[str, Config]) -> None:
    obey_parent()
    known: dict[tuple[float, ...], dict[CaseName, PreparedCase]] = {}
    for key, config in wanted.items():
        try:
            cases = find_cases(config, known.setdefault(config.spacing, {}))
            speed = measure_speed(config, cases)
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
    chosen = [[names[i] for i in places[start::SAMPLE_CASES]] for start in range(SAMPLE_CASES)]
    yield from itertools.chain.from_iterable(chosen)
