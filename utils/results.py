"""What an evaluation stands on: its run, and the results of the stages before it, in order."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.centers import Center
from utils.config import Evaluation, stage_named
from utils.runs import Run, find_runs
from utils.stages import Stage

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Result:
    """The evaluation of one run on one center: masks that the next stage reads."""

    folder: Path
    stage: str
    previous: Result | None

    def mask_path(self, case_id: str) -> Path:
        """Where the mask of a case is, on the grid of its image."""
        return self.folder / "predictions" / f"{case_id}.nii.gz"

    @property
    def done(self) -> bool:
        """Whether every case is there; the mark is written last."""
        return (self.folder / "done").is_file()


def result_folder(run: Run, target: str, roi_source: str) -> Path:
    """Where a run's evaluation on a center lies."""
    return run.folder / f"evaluation_{target}_{roi_source}"


def pick_runs(evaluation: Evaluation, centers: Mapping[str, Center]) -> list[tuple[Run, str]]:
    """The finished runs to evaluate, each with its center: the newest timestamp, or --time.

    Raises FileNotFoundError with the command to give where there is none, and ValueError where
    the center is unknown or several runs fit.
    """
    target = evaluation.target
    if target is not None and target not in centers:
        raise ValueError(
            f"--target {target}: not in {evaluation.centers}, which has {', '.join(centers)}"
        )
    all_runs = find_runs(evaluation.checkpoints, evaluation.stage, fold=None)
    runs = [run for run in all_runs if evaluation.time in (None, run.time)]
    if evaluation.sources:
        runs = [run for run in runs if set(run.sources) == set(evaluation.sources)]
    if target is not None:
        runs = [run for run in runs if target not in run.sources]
        runs = [run for run in runs if run.target == target] or runs
    finished = [run for run in runs if run.done]
    if not finished:
        raise FileNotFoundError(_missing_run(evaluation, runs, all_runs))
    newest = [run for run in finished if run.time == finished[0].time]
    if target is not None and len(newest) > 1:
        choices = "; ".join(" ".join(run.sources) for run in newest)
        raise ValueError(f"--target {target}: several runs fit; add --sources, one of: {choices}")
    pairs = [(run, target or run.target or "") for run in newest]
    for run, name in pairs:
        if name not in centers:
            raise ValueError(f"{run.folder}: its center {name!r} is not in {evaluation.centers}")
    return pairs


def find_previous(
    evaluation: Evaluation, run: Run, target: str, centers: Mapping[str, Center]
) -> Result | None:
    """The result of the stage before on the same center, of the timestamp of `run` or the newest.

    With ROIs from labels ("mask") the tumor's coarse stage needs no result. Raises
    FileNotFoundError, with the commands to give, where training or evaluation is not finished.
    """
    stage = stage_named(evaluation.stage)
    if evaluation.roi_source == "mask" and stage.target == "pancreas":
        raise ValueError("--roi-source mask is for the tumor stages: it replaces the pancreas ones")
    if stage.previous is None or (evaluation.roi_source == "mask" and stage.roi == "pancreas"):
        return None
    earlier_stage = stage_named(stage.previous)
    runs = _earlier_runs(evaluation.checkpoints, earlier_stage, run, target)
    finished = [earlier for earlier in runs if earlier.done]
    if not finished:
        train = _train_again(runs[0]) if runs else ""
        sources = runs[0].sources if runs else _training_sources(earlier_stage, run, centers)
        raise FileNotFoundError(
            f"{evaluation.stage} needs {stage.previous}, whose training is "
            f"{f'unfinished in {runs[0].folder}' if runs else 'missing'}; give\n  "
            f"{train or _command('train', stage.previous, evaluation, sources, run.target)}\n  "
            f"{_command('evaluate', stage.previous, evaluation, sources, target)}"
        )
    earlier = finished[0]
    folder = result_folder(earlier, target, evaluation.roi_source)
    if not Result(folder, stage.previous, None).done:
        command = _command("evaluate", stage.previous, evaluation, earlier.sources, target)
        raise FileNotFoundError(
            f"{evaluation.stage} reads the masks of {stage.previous} on {target}, and they are "
            f"missing or unfinished in {folder}; give\n  {command} --time {earlier.time}"
        )
    return _chain(evaluation.checkpoints, folder)


def script(kind: str, stage: str) -> str:
    """The path of a stage's script from the root; kind is "train" or "evaluate"."""
    return f"{kind}_{stage.partition('_')[0]}/{kind}_sh_{stage}.py"


def _earlier_runs(checkpoints: Path, stage: Stage, run: Run, target: str) -> list[Run]:
    """Runs of an earlier stage that saw what `run` saw and not the target.

    Those of the same timestamp where there are any, else all, newest first. A pancreas stage may
    have more sources (the centers without lesions), a tumor stage has the same.
    """
    own = set(run.sources)
    runs = []
    for earlier in find_runs(checkpoints, stage.name, fold=None):
        sources = set(earlier.sources)
        if target not in sources and (
            own == sources or (stage.target != "tumor" and own < sources)
        ):
            runs.append(earlier)
    return [earlier for earlier in runs if earlier.time == run.time] or runs


def _training_sources(stage: Stage, run: Run, centers: Mapping[str, Center]) -> list[str]:
    """What a stage that `run` builds on is trained on: its sources, and NIH's like if it may."""
    free = [name for name, center in centers.items() if not center.has_lesions]
    more = free if stage.target == "pancreas" else []
    return [*run.sources, *(n for n in more if n not in (*run.sources, run.target))]


def _command(
    kind: str,
    stage: str,
    evaluation: Evaluation,
    sources: Sequence[str] = (),
    target: str | None = None,
) -> str:
    """A command line that can be given as it stands, from the current folder."""
    words = ["python", os.path.relpath(ROOT / script(kind, stage))]
    words += ["--sources", *sources] if sources else []
    words += ["--target", target] if target is not None else []
    for name in ("centers", "checkpoints", "cache"):
        words += [f"--{name}", str(getattr(evaluation, name))]
    if kind == "evaluate" and stage.startswith("tumor") and evaluation.roi_source != "seg":
        words += ["--roi-source", evaluation.roi_source]
    return shlex.join(words)


def _train_again(run: Run) -> str:
    """The command that began an unfinished run: given again, it goes on."""
    facts = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    return "python " + shlex.join(facts["command"])


def _missing_run(evaluation: Evaluation, unfinished: Sequence[Run], others: Sequence[Run]) -> str:
    """Why there is nothing to evaluate, and what to do."""
    if unfinished:
        again = _train_again(unfinished[0])
        return f"the training in {unfinished[0].folder} is not finished; it goes on with\n  {again}"
    message = f"no trained {evaluation.stage} in {evaluation.checkpoints} fits"
    there = [f"{run.time} trained on {' '.join(run.sources)}" for run in others if run.done]
    if there:
        message += f" (finished are: {'; '.join(there)})"
    command = _command("train", evaluation.stage, evaluation, evaluation.sources, evaluation.target)
    return f"{message}; train it with\n  {command}"


def _chain(checkpoints: Path, folder: Path) -> Result:
    """The result in `folder` with the results before it, as their summaries name them."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    previous = summary["previous"]
    before = None if previous is None else _chain(checkpoints, checkpoints / previous)
    return Result(folder, summary["stage"], before)
