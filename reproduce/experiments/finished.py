"""Which results exist: finished runs and evaluations of an experiment, and the missing steps.

Every folder's name is known, so nothing is searched. A run counts with the settings and the cases
that the plan asks for, a result with all that it was read from, as that is now.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.case import Center
from data.centers import load_centers
from data.prepare.prepare_centers import content_keys
from data.prepare.prepared_case import PrepareSettings
from data.splits import CaseName, Split
from engine.case_metrics import Row, read_cases
from engine.evaluation import choose_threshold
from engine.results import result_folder, was_read_from
from engine.run_folders import DONE, Run, changed_files, config_hash, locked, read_run
from engine.split_selection import select_splits, with_contents
from reproduce.experiments.cells import TRAIN, Cell, Step, evaluations_of, steps_of
from reproduce.experiments.plan import Plan
from utils.config import Config
from utils.files import read_json

log = logging.getLogger(__name__)
SUPERSEDED = "superseded"  # beside the run folders: what is no longer true, but computed


class Splits:
    """The split of each training, listed once; reading centers costs time."""

    def __init__(self, centers: Path) -> None:
        self.centers = load_centers(centers)
        self._known: dict[tuple[object, ...], Split] = {}
        self._contents: dict[tuple[object, ...], dict[CaseName, str]] = {}

    def of(self, config: Config) -> Split:
        """The one split that a step's configuration selects."""
        key = (config.stage.target, config.sources, config.target, config.fold, config.holdout)
        if key not in self._known:
            (self._known[key],) = select_splits(config, self.centers)
        return self._known[key]

    def contents(self, config: Config) -> dict[CaseName, str]:
        """The content keys, as the files are now, of the cases of every center of its split."""
        split = self.of(config)
        keys: dict[CaseName, str] = {}
        for name in (*split.sources, split.target):
            place = (name, config.spacing, config.cache)
            if place not in self._contents:
                settings = PrepareSettings(spacing=config.spacing)
                self._contents[place] = content_keys([self.centers[name]], config.cache, settings)
            keys |= self._contents[place]
        return keys


def find_folders(plan: Plan, cell: Cell) -> list[Path]:
    """The finished result folders of a cell: one, or one a fold; [] where any is missing."""
    found = [find_result(step) for step in evaluations_of(plan, cell)]
    folders = [result[cell.target] for result in found if result]
    return folders if len(folders) == len(found) else []


def read_cell(plan: Plan, cell: Cell) -> list[Row] | None:
    """The rows of a cell's cases.csv, each with its center; None where the cell is missing."""
    folders = find_folders(plan, cell)
    if not folders:
        return None
    return [
        row | {"center": cell.target}
        for folder in folders
        for row in read_cases(folder / "cases.csv")
    ]


def is_done(step: Step, splits: Splits | None = None) -> bool:
    """Whether a step's result exists; `splits`: of the same cases, too."""
    if step.kind == TRAIN:
        run = find_run(step, splits)
        return run is not None and run.done
    return bool(find_result(step, splits))


def find_run(step: Step, splits: Splits | None = None) -> Run | None:
    """The run of a step's training, finished or not; None where there is none, or another.

    Another is also one whose files are not as the training left them, and, with `splits`, one whose
    cases have changed.
    """
    folder, config = step.folder, step.training.config
    run = read_run(folder)
    if run is None or config_hash(with_precision_of(config, folder)) != run.config_hash:
        return None
    if splits is not None:
        split = without_dropped(splits.of(config), run)
        if with_contents(split, splits.contents(config)).hash != run.split_hash:
            return None
    return None if is_changed(folder) else run


def with_precision_of(config: Config, folder: Path) -> Config:
    """The configuration with precision `auto` as the run in `folder` has resolved it."""
    note = folder / "config.json"
    if config.precision != "auto" or not note.is_file():
        return config
    made = read_json(note, f"delete {folder} and train again")
    return replace(config, precision=str(made.get("precision", "auto")))


def find_result(step: Step, splits: Splits | None = None) -> dict[str, Path]:
    """The finished result of an evaluation: center -> folder; {} where it is missing.

    It is of a finished run of its training, and was read from the result of the stage before as
    that is now.
    """
    run = find_run(step, splits)
    if run is None or not run.done:
        return {}
    asked, before = step.evaluation, step.before
    centers = [str(asked.target)]
    if asked.cases == "heldout":
        centers = sorted({center for center, _ in run.heldout_cases})
    result = {center: result_folder(run, step.stage, center, asked) for center in centers}
    earlier = {} if before is None else find_result(before, splits)
    for center, folder in result.items():
        origin = read_origin(folder)
        if origin is None or not _holds_after(origin, earlier.get(center)):
            return {}
        if splits is None:
            continue
        if not _has_threshold(step, run, splits.centers[center], origin):
            return {}
        now = splits.contents(step.training.config)
        if any(now.get((center, case)) != key for case, key in origin.get("cases", {}).items()):
            return {}
    return result


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What a finished result was made from; None where it is not finished, or was changed since."""
    if not (folder / DONE).is_file() or is_changed(folder):
        return None
    note = folder / "origin.json"
    try:
        return read_json(note, "it is evaluated again") if note.is_file() else {}
    except ValueError as error:
        print(f"warning: {error}", flush=True)
        return None


def is_changed(folder: Path) -> bool:
    """Whether files of a finished run or result are not as they were written; a warning says so."""
    changed = tuple(changed_files(folder))
    if changed:
        _warn_once(folder, changed)
    return bool(changed)


@functools.cache
def _warn_once(folder: Path, changed: tuple[str, ...]) -> None:
    log.warning(
        "%s: %s changed since it was finished, so it counts as missing; restore the files, or let "
        "reproduce/run.py make it again",
        *(folder, ", ".join(changed)),
    )


def _has_threshold(step: Step, run: Run, center: Center, origin: Mapping[str, Any]) -> bool:
    """Whether a result has the threshold of now: of centers.toml, or of the held-out cases."""
    if "threshold" not in origin:
        return True
    try:
        threshold = choose_threshold(step.evaluation, run, step.training.config.stage, center)
    except FileNotFoundError:  # the held-out cases are to be predicted
        return False
    return bool(threshold == origin["threshold"])


def _holds_after(origin: Mapping[str, Any], earlier: Path | None) -> bool:
    """Whether a result was read from `earlier` as it is now.

    Of a coarse stage, or around labels, it was read from none.
    """
    if origin.get("previous") is None:
        return True
    if earlier is None or Path(origin["previous"]).parts != earlier.parts[-2:]:
        return False
    return was_read_from(origin, earlier)


def missing_steps(plan: Plan, cells: Iterable[Cell], splits: Splits | None = None) -> list[Step]:
    """The steps of the cells that are not done, each once, behind the steps that they need.

    What depends on a step that is not done is not done either. With `splits` every step is looked
    at; without, as tables read, a cell that has its results needs none.
    """
    if splits is None:
        cells = [cell for cell in cells if not find_folders(plan, cell)]
    missing: dict[Step, None] = {}
    for step in dict.fromkeys(step for cell in cells for step in steps_of(plan, cell)):
        if any(needed in missing for needed in step.needs) or not is_done(step, splits):
            missing[step] = None
    return list(missing)


def stale_folders(steps: Iterable[Step], splits: Splits) -> list[Path]:
    """Run folders with the names of these trainings, of other settings or other cases."""
    trainings = dict.fromkeys(step for step in steps if step.kind == TRAIN)
    return [s.folder for s in trainings if s.folder.exists() and find_run(s, splits) is None]


def set_aside(folder: Path) -> Path:
    """Move a run folder to `superseded`, with its evaluations; where it is now.

    Raises StoppedError where a process works in it.
    """
    place = folder.parent / SUPERSEDED
    place.mkdir(exist_ok=True)
    number = 1 + sum(1 for _ in place.glob(f"{folder.name}-*"))
    with locked(folder):
        return folder.rename(place / f"{folder.name}-{number}")


def without_dropped(split: Split, run: Run) -> Split:
    """The split without the duplicates that the run has dropped."""

    def kept(cases: Iterable[CaseName]) -> tuple[CaseName, ...]:
        return tuple(case for case in cases if case not in run.dropped_cases)

    return replace(
        split,
        train_cases=kept(split.train_cases),
        test_cases=kept(split.test_cases),
        heldout_cases=kept(split.heldout_cases),
    )
