"""Run folders: `checkpoints/<timestamp>_<stage>_<method>_<sources>/`, found, opened, locked."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import sleep
from typing import Any

import torch

from data.splits import CaseName, Split
from utils.config import PRECISIONS, Config, StoppedError
from utils.device import processor_name
from utils.files import digest_of, read_json, sha256_of, write_json, write_text
from utils.leftovers import remove_leftovers, unfinished_path
from utils.locks import lock_file, try_lock
from utils.settings import to_plain, weights_part

DONE = "done"
NAMED = 5  # a message names at most so many cases
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
    names_hash: str = ""  # of the split's cases without their contents
    contents: Mapping[str, str] = field(default_factory=dict, hash=False)  # as `Split.contents`

    @property
    def done(self) -> bool:
        """Whether training has ended; the mark is written last."""
        return (self.folder / DONE).is_file()

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
        "names_hash": split.names_hash,
        "contents": to_plain(split.contents),
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

    Raises ValueError where --time names folders of another configuration or other cases, and where
    files of the cases have changed since the run that would resume began.
    """
    same = {"config_hash": config_hash(config)}
    remove_leftovers(config.checkpoints)
    time = config.time
    if time is None and config.resume:
        for run in find_runs(config.checkpoints, config.stage.name, **same):
            if not run.done and any(run.names_hash == split.names_hash for split in splits):
                time = run.time
                break
        else:
            _say_of_other_precision(config, splits)
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


def mark_done(folder: Path, written: Iterable[Path] = ()) -> None:
    """Write `done`, the last file of a run or an evaluation.

    It names the files that were `written` there, with their sha256, in sha256sum's form.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in written)
    lines = [new_time(), *(f"{sha256_of(folder / name)}  {name}" for name in names)]
    write_text(folder / DONE, "\n".join(lines) + "\n")


def written_by_training(run: Run) -> list[Path]:
    """The files of a finished training that must stay as they are."""
    names = ("config.json", "run.json", "log.csv")
    return [run.checkpoint, *(run.folder / name for name in names), *run.folder.glob("crops.json")]


def refuse_changed(run: Run) -> None:
    """Raise ValueError where files of a finished training are not as it left them."""
    changed = changed_files(run.folder)
    if changed:
        raise ValueError(
            f"{run.folder}: {', '.join(changed)} changed since the training ended; restore the "
            "files, or delete the folder and train again"
        )


def changed_files(folder: Path) -> list[str]:
    """The files that `done` names and that are no longer as they were then, or gone."""
    note = folder / DONE
    lines = note.read_text(encoding="utf-8").splitlines()[1:] if note.is_file() else []
    named = [line.split("  ", 1) for line in lines if "  " in line]
    return [name for digest, name in named if digest_of(folder / name) != digest]


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
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def name_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of two `environment`s differs so that a computation may differ in its last bits."""
    named = [
        *((key, before.get(key), now.get(key)) for key in ("processor", "gpus", "cuda", "threads")),
        *(
            (name, before.get("packages", {}).get(name), version_)
            for name, version_ in now["packages"].items()
        ),
    ]
    return [f"{key} {old} -> {new}" for key, old, new in named if old != new]


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
    names = ("time", "target", "method", "seed", "fold")
    hashes = ("config_hash", "split_hash", "names_hash", "contents")
    values = {name: facts[name] for name in (*names, *hashes)}
    for name in ("time", "method", *hashes[:3]):
        if not isinstance(values[name], str):
            raise ValueError(f"{name} is {values[name]!r}")
    if not isinstance(values["contents"], dict):
        raise ValueError("contents is no object")
    values |= {
        name: frozenset((center, case_id) for center, case_id in facts[name])
        for name in ("test_cases", "heldout_cases", "dropped_cases")
    }
    return Run(folder, sources=tuple(facts["sources"]), holdout=facts["holdout"], **values)


def _say_of_other_precision(config: Config, splits: Sequence[Split]) -> None:
    """Name an unfinished run that differs in the precision alone, as `auto` on another machine."""
    for precision in PRECISIONS:
        other = config_hash(replace(config, precision=precision))
        for run in find_runs(config.checkpoints, config.stage.name, config_hash=other):
            if not run.done and any(run.names_hash == split.names_hash for split in splits):
                print(
                    f"{run.folder} is unfinished and was begun in {precision}; here it is "
                    f"{config.precision}, which starts a new run (--precision {precision} resumes)",
                    flush=True,
                )


def _refuse_other(run: Run, wanted_hash: str, split: Split) -> None:
    if run.config_hash != wanted_hash:
        raise ValueError(
            f"{run.folder}: made with other settings (see its config.json); "
            "give the same ones, or another --time"
        )
    if run.names_hash != split.names_hash:
        raise ValueError(f"{run.folder}: made from other cases; give another --time")
    if run.split_hash != split.hash:
        raise ValueError(
            f"{run.folder}: {name_changed(run.contents, split.contents)} changed since it began "
            "(files, or settings of the center): restore them, or start a new run with --no-resume"
        )


def name_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The cases whose contents differ, the first of them by name."""
    changed = sorted(case for case in {*before, *now} if before.get(case) != now.get(case))
    more = f" and {len(changed) - NAMED} more cases" if len(changed) > NAMED else ""
    return ", ".join(changed[:NAMED]) + more
