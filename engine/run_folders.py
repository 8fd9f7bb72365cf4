"""Run folders: `checkpoints/<timestamp>_<stage>_<method>_<sources>/`, found, opened, locked."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import sleep
from typing import Any

import torch

from data.splits import CaseName, Split
from utils.config import Config, StoppedError
from utils.files import read_json, write_json, write_text
from utils.leftovers import remove_leftovers, unfinished_path
from utils.locks import lock_file, try_lock
from utils.settings import to_plain, weights_part

TIME_FORMAT = "%Y%m%d-%H%M%S"
DEFAULT_SEED = next(f.default for f in fields(Config) if f.name == "seed")


@dataclass(frozen=True)
class Run:
    """One training run on disk."""

    folder: Path
    time: str
    sources: tuple[str, ...]
    target: str | None
    method: str = "ours"
    seed: int | None = 2022  # None: not known, of a released network
    fold: int | None = None
    holdout: float = 0.0
    test_cases: frozenset[CaseName] = frozenset()
    heldout_cases: frozenset[CaseName] = frozenset()  # of the sources, to choose a threshold on
    dropped_cases: frozenset[CaseName] = frozenset()  # duplicates: never trained, never tested
    config_hash: str = ""
    split_hash: str = ""

    @property
    def done(self) -> bool:
        """Whether training has ended; the mark is written last."""
        return (self.folder / "done").is_file()

    @property
    def checkpoint(self) -> Path:
        """The file with the weights."""
        return self.folder / "last.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The one before it, for where a bad block has taken the last."""
        return self.folder / "previous.pt"


def config_hash(config: Config) -> str:
    """Hash of everything in the configuration that changes the weights, the split aside."""
    plain = json.dumps(weights_part(config), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def new_time() -> str:
    """Now, as the timestamp of a run."""
    return datetime.now(UTC).strftime(TIME_FORMAT)


def free_time(checkpoints: Path, stage: str) -> str:
    """Now, or later, so that no other run of the stage has it."""
    time = new_time()
    while any(checkpoints.glob(f"{time}_{stage}_*")):
        sleep(0.2)
        time = new_time()
    return time


def find_runs(checkpoints: Path, stage: str, **wanted: Any) -> list[Run]:
    """Runs of a stage, newest first; `wanted` may hold any key of run.json.

    A folder whose run.json is damaged or of another version is passed over, with one line on
    stderr; one without is no run.
    """
    runs = []
    for path in sorted(checkpoints.glob(f"*_{stage}_*/run.json"), reverse=True):
        found = _read(path)
        if found is None or found[1].get("stage") != stage:
            continue
        run, facts = found
        if all(facts.get(key) == to_plain(value) for key, value in wanted.items()):
            runs.append(run)
    return runs


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None, and a line on stderr, where its run.json is damaged; None where
    there is none.
    """
    found = _read(folder / "run.json")
    return None if found is None else found[0]


def _read(path: Path) -> tuple[Run, dict[str, Any]] | None:
    try:
        return _read_run(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _say_once(f"warning: {error} (this run is passed over)")
        return None


def _read_run(path: Path) -> tuple[Run, dict[str, Any]]:
    """The run of a run.json, and all that it says. Raises ValueError, naming it."""
    cure = f"restore it, or delete {path.parent}"
    facts = read_json(path, cure)
    try:
        return _run(path.parent, facts), facts
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: is damaged or of another version ({type(error).__name__}: {error}); {cure}"
        ) from error


@functools.cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def create_run(config: Config, time: str, split: Split) -> Run:
    """Make the folder with config.json, environment.json and run.json, all at once.

    In a run's folder they are written again. Raises ValueError where there is a folder of that name
    that is no run.
    """
    folder = config.checkpoints / folder_name(config, time, split.sources, split.fold)
    if (folder / "run.json").exists():
        _read_run(folder / "run.json")  # refuses a damaged one
        _fill(folder, config, time, split)
        return _read_run(folder / "run.json")[0]
    _remove_half_made(folder)
    making = unfinished_path(folder)
    making.mkdir(parents=True)
    try:
        _fill(making, config, time, split)
        with suppress(FileExistsError):  # another process was faster; one of them gets the lock
            making.rename(folder)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return _read_run(folder / "run.json")[0]


def _fill(folder: Path, config: Config, time: str, split: Split) -> None:
    write_json(folder / "config.json", to_plain(config))
    write_json(folder / "environment.json", environment())
    facts = {
        "stage": config.stage.name,
        "method": config.method,
        "seed": config.seed,
        "time": time,
        "sources": list(split.sources),
        "target": split.target,
        "fold": split.fold,
        "holdout": config.holdout,
        "config_hash": config_hash(config),
        "split_hash": split.hash,
        "test_cases": to_plain(split.test_cases),
        "heldout_cases": to_plain(split.heldout_cases),
        "dropped_cases": to_plain(split.dropped_cases),
    }
    write_json(folder / "run.json", facts)


def _remove_half_made(folder: Path) -> None:
    """Delete a folder that an older version left half made. Raises ValueError for any other."""
    if not folder.exists():
        return
    if {path.name for path in folder.iterdir()} <= {"config.json", "environment.json", "lock"}:
        shutil.rmtree(folder)
        return
    raise ValueError(f"{folder}: is no run of this version; delete it, or give another --time")


def open_runs(config: Config, splits: Sequence[Split]) -> list[Run]:
    """A folder for each split, all of one timestamp: those of an unfinished experiment, or new.

    Raises ValueError where --time names folders of another configuration or other cases.
    """
    same = {"config_hash": config_hash(config)}
    remove_leftovers(config.checkpoints)
    time = config.time
    if time is None and config.resume:
        for run in find_runs(config.checkpoints, config.stage.name, **same):
            if not run.done and any(_fits(run, split) for split in splits):
                time = run.time
                break
    if time is None:
        time = free_time(config.checkpoints, config.stage.name)
    runs = []
    for split in splits:
        folder = config.checkpoints / folder_name(config, time, split.sources, split.fold)
        found = find_runs(config.checkpoints, config.stage.name, time=time)
        there = [run for run in found if run.folder == folder]
        for run in there:
            _refuse_other(run, same["config_hash"], split)
        runs.append(there[0] if there else create_run(config, time, split))
    return runs


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against a second process; the lock dies with the process.

    Raises StoppedError where another process holds it.
    """
    with lock_file(folder / "lock") as handle:
        if not try_lock(handle):
            raise StoppedError(
                f"{folder}: another process works here; wait for it (a training can start a "
                "new run beside it with --no-resume)"
            )
        yield


def mark_done(folder: Path) -> None:
    """Write `done`, the last file of a run or an evaluation."""
    write_text(folder / "done", new_time() + "\n")


def environment() -> dict[str, Any]:
    """Versions and devices, so that a number can be traced to what computed it."""
    names = ("torch", "numpy", "scipy", "SimpleITK", "monai")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in names},
        "cuda": torch.version.cuda,
        "gpus": devices,
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def folder_name(
    config: Config, time: str, sources: Sequence[str], fold: int | str | None = None
) -> str:
    """Unique for what may train at one timestamp: method, sources, fold and seed.

    `sources`: of the split, in its order; of a fold, its center.
    """
    parts = [time, config.stage.name, config.method, "+".join(sources)]
    if fold is not None:
        parts.append(f"fold{fold}")
    if config.seed != DEFAULT_SEED:
        parts.append(f"seed{config.seed}")
    return "_".join(parts)


def _run(folder: Path, facts: dict[str, Any]) -> Run:
    names = ("time", "target", "method", "seed", "fold", "config_hash", "split_hash")
    values = {name: facts[name] for name in names}
    for name in ("time", "method", "config_hash", "split_hash"):
        if not isinstance(values[name], str):
            raise ValueError(f"{name} is {values[name]!r}")
    values |= {
        name: frozenset((center, case_id) for center, case_id in facts[name])
        for name in ("test_cases", "heldout_cases", "dropped_cases")
    }
    return Run(folder, sources=tuple(facts["sources"]), holdout=facts["holdout"], **values)


def _facts(run: Run) -> dict[str, Any]:
    return _read_run(run.folder / "run.json")[1]


def _fits(run: Run, split: Split) -> bool:
    return _facts(run)["split_hash"] == split.hash


def _refuse_other(run: Run, wanted_hash: str, split: Split) -> None:
    facts = _facts(run)
    if facts["config_hash"] != wanted_hash:
        raise ValueError(
            f"{run.folder}: made with other settings (see its config.json); "
            "give the same ones, or another --time"
        )
    if facts["split_hash"] != split.hash:
        raise ValueError(f"{run.folder}: made from other cases; give another --time")
