"""Finished evaluations -> `results/<experiment>/`: their cases, and experiment.json."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.centers import load_centers
from engine.run_folders import environment, new_time
from reproduce.analysis.collect import collect_rows, with_earlier
from reproduce.analysis.export_notes import add_entry
from reproduce.analysis.line_files import NOTE
from reproduce.analysis.paper_tables import ROW_METHODS, ROW_NAMES
from reproduce.analysis.rows import (
    EXPERIMENT,
    ResultKey,
    Rows,
    digest_files,
    read_results,
    write_results,
)
from reproduce.analysis.tables import table_keys, thresholds_of
from reproduce.experiments.cells import choose_targets, lesion_centers
from reproduce.experiments.request import TRIAL, Request
from utils.commands import ROOT
from utils.device import processor_name
from utils.files import read_json, write_json

# Cases that differ in one of these do not belong into one experiment.
SETTINGS = ("preset", "centers", "phantoms", "holdout")
ARGUMENTS = ("arguments", "stage_arguments", "method_arguments")
_WRITTEN = ("results", "docs", "README.md", "benchmarks/results.json")  # by its scripts


@dataclass(frozen=True)
class Exported:
    """What was written, and what the request needs that is not finished."""

    paths: tuple[Path, ...]
    evaluations: int
    not_run: tuple[str, ...]


def export_results(request: Request, folder: Path, commit: str | None = None) -> Exported:
    """Write the cases of everything that `request` asks for and that is finished.

    Evaluations that `folder` has already are replaced, others are kept; so are the entries of
    earlier exports of which `folder` still has cases (`export_notes.py`). `commit`: of the code
    that trained; None: the one that is checked out. Raises ValueError where nothing is finished,
    or `folder` holds an experiment of other settings.
    """
    centers = load_centers(request.plan.centers)
    targets = choose_targets(centers, request.targets, request.plan.centers)
    keys = export_keys(request, lesion_centers(centers), targets)
    newer = collect_rows(request.plan, centers, keys, networks=True)
    if not newer.evaluations:
        raise ValueError(
            f"{request.plan.checkpoints}: nothing of this request is finished there; "
            f"{request.command} makes it"
        )
    settings = settings_of(request, newer)
    older = _read_older(folder, settings)
    rows = newer if older is None else older[0].updated(newer)
    export = {
        "command": without_folders(request.command),
        "commit": commit or checked_out(),
        "date": new_time(),
        **machine(),
        "not_run": name_not_run(key for key in keys if rows.select(key) is None),
    }
    had, before = (Rows({}), []) if older is None else older
    exports = add_entry(before, export, had, newer)
    paths = write_results(folder, rows, ROW_NAMES)
    files = digest_files(folder)
    facts = {"experiment": folder.name, **settings, "files": files, "exports": exports}
    write_json(folder / EXPERIMENT, facts)
    written = (*paths, folder / EXPERIMENT)
    return Exported(written, len(newer.evaluations), tuple(export["not_run"]))


def export_keys(
    request: Request, centers: Sequence[str], targets: Sequence[str]
) -> list[ResultKey]:
    """The results of a request's tables, of coarse stages, and of held-out cases at the last."""
    methods = [ROW_METHODS[row] for row in request.rows or ()]
    keys = [
        key
        for table in request.tables
        for of_seeds in table_keys(
            table, targets, request.seeds, thresholds_of(table, request.plan.holdout)
        ).values()
        for key in of_seeds
        if request.rows is None or key.method in methods
    ]
    is_trial = request.what == TRIAL
    shown = (request.trial_stage, "mask", "target") if is_trial else ("tumor_fine", "seg", "target")
    if request.plan.holdout > 0:
        keys += [
            replace(key, heldout=center)
            for key in keys
            if (key.stage, key.roi_source, key.threshold) == shown and not key.folds
            for center in centers
            if center != key.target
        ]
    return with_earlier(dict.fromkeys(keys))


def name_not_run(keys: Iterable[ResultKey]) -> list[str]:
    """A sentence for each method, stage and threshold that lacks results; held-out cases aside."""
    names: dict[str, list[str]] = {}
    for key in keys:
        if not key.heldout:
            what = f"{ROW_NAMES.get(key.method, key.method)}, {key.stage}, ROI {key.roi_source}"
            what += f", threshold {key.threshold}" + (", four folds" if key.folds else "")
            names.setdefault(what, []).append(f"{key.target} seed {key.seed}")
    return [f"{what}: {', '.join(places)}" for what, places in names.items()]


def settings_of(request: Request, rows: Rows) -> dict[str, Any]:
    """What all cases of an experiment share; the keys are `SETTINGS` and `ARGUMENTS`."""
    plan = request.plan
    return {
        "preset": plan.preset,
        "centers": list(rows.centers),
        "phantoms": None if request.phantoms is None else str(request.phantoms),
        "holdout": plan.holdout,
        "arguments": shlex.join(plan.options),
        "stage_arguments": {n: shlex.join(words) for n, words in plan.stage_options.items()},
        "method_arguments": {n: shlex.join(words) for n, words in plan.method_options.items()},
    }


def note_extra(folder: Path, script: str, arguments: Sequence[str]) -> Path:
    """Note in experiment.json of a `LineFiles` folder what made its files; the note's path."""
    path = folder / NOTE
    before = read_json(path, "delete it", ("exports",))["exports"] if path.is_file() else []
    note = {
        "command": without_folders(f"python {script} {shlex.join(arguments)}"),
        "commit": checked_out(),
        "date": new_time(),
        **machine(),
    }
    kept = [e for e in before if (e["command"], e["commit"]) != (note["command"], note["commit"])]
    write_json(path, {"files": digest_files(folder), "exports": [*kept, note]})
    return path


def without_folders(command: str) -> str:
    """A command whose absolute paths are their last names: the others are one machine's."""
    words = shlex.split(command)
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in words)


def checked_out() -> str:
    """The commit of this checkout, with "-dirty" where its code is changed; "unknown" without git.

    What an export or a benchmark writes, and the pages made of it, count as no change.
    """

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=7", "HEAD")
    others = [f":(exclude){name}" for name in _WRITTEN]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *others)
    return (commit + ("-dirty" if changed else "")) if commit else "unknown"


def machine() -> dict[str, Any]:
    """Processors and versions, without the machine's name."""
    facts = environment()
    gpus = ", ".join(facts["gpus"])
    cores = len(os.sched_getaffinity(0))
    return {
        "machine": gpus or f"{cores} cores of {processor_name()}",
        "system": f"{platform.system()} {platform.machine()}, Python {facts['python']}",
        "packages": facts["packages"],
    }


def _read_older(
    folder: Path, settings: Mapping[str, Any]
) -> tuple[Rows, list[dict[str, Any]]] | None:
    """The rows and exports that `folder` has. Raises ValueError where its settings are others."""
    note = folder / EXPERIMENT
    if not note.is_file():
        return None
    facts = read_json(note, "restore it, or give another --results", ("exports",))
    different = [name for name in (*SETTINGS, *ARGUMENTS) if facts.get(name) != settings[name]]
    if different:
        name = different[0]
        raise ValueError(
            f"{folder}: its cases were made with other settings ({name}: {facts.get(name)}, now "
            f"{settings[name]}); give another --results"
        )
    return read_results(folder), facts["exports"]
