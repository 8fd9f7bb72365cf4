"""What an evaluation needs: its run, and the results of the stages before it, in order."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.case import Center
from engine.case_metrics import read_cases
from engine.released_runs import released_run
from engine.run_folders import DONE, Run, changed_files, find_runs
from methods import EXTERNAL, stage_of
from models.released import RELEASED
from utils.commands import command_line, to_arguments
from utils.config import Evaluation
from utils.files import digest_of, read_json, sha256_of
from utils.stages import Stage, stage_named


@dataclass(frozen=True)
class Result:
    """The evaluation of one run on one center: masks that the next stage reads."""

    folder: Path
    stage: str
    center: str
    previous: Result | None
    masks: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)  # their sha256

    def check_mask(self, case_id: str) -> None:
        """Raise ValueError where the mask of a case is not the one that was measured."""
        if digest_of(self.mask_path(case_id)) != self.masks.get(case_id):
            raise ValueError(
                f"{self.mask_path(case_id)}: missing, or changed since the evaluation of "
                f"{self.stage}; evaluate {self.stage} on {self.center} again, which predicts this "
                "case anew"
            )

    def mask_path(self, case_id: str) -> Path:
        """Where the mask of a case is, on the grid of its image."""
        return self.folder / "predictions" / f"{case_id}.nii.gz"

    @property
    def done(self) -> bool:
        """Whether every case is there; the mark is written last."""
        return (self.folder / DONE).is_file()


def digest_result(folder: Path) -> str:
    """Changes with what a result was made from and with its masks, not with the time it took."""
    masks = [(row["case_id"], row.get("mask_sha256")) for row in read_cases(folder / "cases.csv")]
    content = sha256_of(folder / "origin.json") + json.dumps(masks)
    return hashlib.sha256(content.encode()).hexdigest()


def threshold_source(evaluation: Evaluation, stage: Stage) -> str:
    """Where a stage's threshold comes from: "target", "source-val" (see `Evaluation`) or "stage".

    The pancreas stages have one threshold, held-out cases are predicted at the stage's own, and an
    external method gives labels.
    """
    if stage.target == "pancreas" or evaluation.cases == "heldout" or evaluation.method in EXTERNAL:
        return "stage"
    return evaluation.threshold


def result_folder(run: Run, stage: str, center: str, asked: Evaluation) -> Path:
    """Where the evaluation of a stage's run on a center is, for what `asked` says of ROI source,
    threshold and cases; `asked` may be the request of a later stage.
    """
    name = f"evaluation_{center}_{asked.roi_source}"
    source = threshold_source(asked, stage_named(stage))
    if asked.cases == "heldout":
        name += "_heldout"
    elif source != "stage":
        name += f"_{source}"
    return run.folder / name


def pick_runs(evaluation: Evaluation, centers: Mapping[str, Center]) -> list[tuple[Run, str]]:
    """The finished runs to evaluate, each with its center: the newest timestamp, or --time.

    For held-out cases a run comes with each of its sources that has some. A released file has a
    run folder of its own.
    Raises FileNotFoundError with the command to give where there is none, and ValueError where
    the center is unknown or several runs fit.
    """
    target = evaluation.target
    if target is not None and target not in centers:
        raise ValueError(
            f"--target {target}: not in {evaluation.centers}, which has {', '.join(centers)}"
        )
    if evaluation.released is not None:
        return [(released_run(evaluation), str(target))]
    found = find_runs(evaluation.checkpoints, evaluation.stage, method=evaluation.method)
    all_runs = [run for run in found if _is_of(run, evaluation)]
    runs = [run for run in all_runs if not evaluation.time or run.time in evaluation.time]
    if evaluation.sources:
        runs = [run for run in runs if set(run.sources) == set(evaluation.sources)]
    if target is not None and evaluation.fold is None:
        runs = [run for run in runs if target not in run.sources]
        runs = [run for run in runs if run.target == target] or runs
    finished = [run for run in runs if run.done]
    if not finished:
        raise FileNotFoundError(_missing_run(evaluation, runs, all_runs))
    newest = [run for run in finished if run.time == finished[0].time]
    if target is not None and evaluation.fold != "all" and len(newest) > 1:
        choices = "; ".join(f"--sources {' '.join(r.sources)} --seed {r.seed}" for r in newest)
        raise ValueError(f"--target {target}: several runs fit; add one of: {choices}")
    if evaluation.cases == "heldout":
        pairs = [(run, name) for run in newest for name in _heldout_centers(run)]
    else:
        pairs = [(run, target or run.target or "") for run in newest]
    for run, name in pairs:
        if name not in centers:
            raise ValueError(f"{run.folder}: its center {name!r} is not in {evaluation.centers}")
    return pairs


def _is_of(run: Run, evaluation: Evaluation) -> bool:
    """Whether a run is of the seed and of the fold that are asked for."""
    if evaluation.seed not in (None, run.seed):
        return False
    if evaluation.fold is None:
        return run.fold is None
    own = evaluation.target in (None, run.target)
    return own and run.fold is not None and evaluation.fold in ("all", str(run.fold))


def _heldout_centers(run: Run) -> list[str]:
    """The sources of which the run holds cases out; a ValueError where there is none."""
    names = [name for name in run.sources if any(c == name for c, _ in run.heldout_cases)]
    if not names:
        raise ValueError(
            f"{run.folder}: trained on every case of its sources, so none is left to choose a "
            "threshold on; train it with --holdout 0.1, or use --threshold target"
        )
    return names


def find_previous(
    evaluation: Evaluation, run: Run, target: str, centers: Mapping[str, Center]
) -> Result | None:
    """The result of the stage before on the same center, of the run that `_earlier_runs` prefers.

    With ROIs from labels ("mask") the tumor's coarse stage needs no result. Raises
    FileNotFoundError, with the commands to give, where training or evaluation is not finished.
    """
    stage = stage_of(run.method, stage_named(evaluation.stage))
    if evaluation.roi_source == "mask" and stage.target == "pancreas":
        raise ValueError("--roi-source mask is for the tumor stages: it replaces the pancreas ones")
    if stage.previous is None or (evaluation.roi_source == "mask" and stage.roi == "pancreas"):
        return None
    earlier_stage = stage_named(stage.previous)
    runs = _earlier_runs(evaluation, earlier_stage, run, target)
    finished = [earlier for earlier in runs if earlier.done]
    if not finished and run.method == RELEASED:
        command = _command("evaluate", stage.previous, evaluation, run.sources, run, target)
        raise FileNotFoundError(
            f"{evaluation.stage} reads the masks of {stage.previous}, and no released network "
            f"of it is evaluated in {evaluation.checkpoints}; give\n  {command}"
        )
    if not finished:
        train = _train_again(runs[0]) if runs else ""
        sources = runs[0].sources if runs else _training_sources(earlier_stage, run, centers)
        raise FileNotFoundError(
            f"{evaluation.stage} needs {stage.previous}, whose training is "
            f"{f'unfinished in {runs[0].folder}' if runs else 'missing'}; give\n  "
            f"{train or _command('train', stage.previous, evaluation, sources, run)}\n  "
            f"{_command('evaluate', stage.previous, evaluation, sources, run, target)}"
        )
    earlier = finished[0]
    folder = result_folder(earlier, stage.previous, target, evaluation)
    command = _command("evaluate", stage.previous, evaluation, earlier.sources, run, target)
    again = f"give\n  {command} --time {earlier.time}"
    if not Result(folder, stage.previous, target, None).done:
        raise FileNotFoundError(
            f"{evaluation.stage} reads the masks of {stage.previous} on {target}, and they are "
            f"missing or unfinished in {folder}; {again}"
        )
    outdated = why_outdated(evaluation.checkpoints, folder)
    if outdated:
        raise ValueError(f"{evaluation.stage} reads {folder}, and {outdated}; {again}")
    return _chain(evaluation.checkpoints, folder)


def why_outdated(checkpoints: Path, folder: Path) -> str:
    """Why a finished result, or one that it was read from, no longer holds; "" where all do.

    Of what lies in `checkpoints`: its own files, its weights' file, and the results before it.
    """
    changed = changed_files(folder)
    if changed:
        return f"{', '.join(changed)} in {folder} changed since the evaluation"
    cure = f"delete {folder} and evaluate that stage again"
    origin = read_json(folder / "origin.json", cure, ("previous",))
    weights = folder.parent / "last.pt"
    if weights.is_file() and digest_of(weights) != origin.get("checkpoint_sha256"):
        return f"{weights} changed since {folder} was predicted with it"
    if origin["previous"] is None:
        return ""
    previous = checkpoints / origin["previous"]
    if not was_read_from(origin, previous):
        return f"{previous}, which {folder} was read from, was evaluated again since"
    return why_outdated(checkpoints, previous)


def was_read_from(origin: Mapping[str, Any], previous: Path) -> bool:
    """Whether a result whose origin.json is `origin` was read from the one in `previous` as it is.

    False too where that one is not finished.
    """
    return (previous / DONE).is_file() and digest_result(previous) == origin["previous_sha256"]


def _earlier_runs(evaluation: Evaluation, stage: Stage, run: Run, target: str) -> list[Run]:
    """Runs of an earlier stage that saw what `run` saw and not the target.

    Those of the timestamps that were asked for, else those of the same one, else all; of the same
    seed where there are any; newest first. A tumor stage has the same sources; a pancreas stage
    may have more (centers without lesions).
    """
    own = set(run.sources)
    runs = []
    tumor = stage.target == "tumor"
    method = _earlier_method(evaluation, stage, run.method)
    for earlier in find_runs(evaluation.checkpoints, stage.name, fold=run.fold, method=method):
        sources = set(earlier.sources)
        unseen = earlier.target == run.target if run.fold is not None else target not in sources
        if evaluation.cases == "heldout":
            unseen = run.heldout_cases <= earlier.heldout_cases
        if unseen and (own == sources or (not tumor and own < sources)):
            runs.append(earlier)
    asked = [earlier for earlier in runs if earlier.time in evaluation.time]
    runs = asked or [earlier for earlier in runs if earlier.time == run.time] or runs
    return [earlier for earlier in runs if earlier.seed == run.seed] or runs


def _earlier_method(evaluation: Evaluation, stage: Stage, method: str) -> str:
    """The method whose `stage` a later stage of `method` reads.

    All tumor methods share the pancreas stages of the default one, so that they see the same ROIs.
    """
    alike = stage.target == stage_named(evaluation.stage).target
    return method if alike or method == RELEASED else Evaluation(stage.name).method


def _training_sources(stage: Stage, run: Run, centers: Mapping[str, Center]) -> list[str]:
    """What a stage that `run` builds on is trained on: its sources, and NIH's like if it may."""
    if run.fold is not None:
        return []
    free = [name for name, center in centers.items() if not center.has_lesions]
    more = free if stage.target == "pancreas" else []
    return [*run.sources, *(n for n in more if n not in (*run.sources, run.target))]


def _command(
    kind: str,
    stage: str,
    evaluation: Evaluation,
    sources: Sequence[str],
    run: Run | None = None,
    target: str | None = None,
) -> str:
    """A command line that can be given as it stands, from the current folder."""
    tumor = stage.startswith("tumor")
    fold = evaluation.fold if run is None or run.fold is None else str(run.fold)
    method = evaluation.method if run is None else run.method
    method = _earlier_method(evaluation, stage_named(stage), method)
    options: dict[str, Any] = {"sources": tuple(sources) if fold is None else ()}
    options["target"] = evaluation.target if run is None else run.target
    options["fold"] = fold
    if method == RELEASED:
        options |= {"released": f"STATE_DICT_OF_{stage.upper()}", "target": target}
    elif method != Evaluation(stage).method:
        options["method"] = method
    options["seed"] = evaluation.seed
    for name in ("centers", "checkpoints", "cache"):
        options[name] = getattr(evaluation, name)
    if kind == "evaluate":
        if evaluation.cases == "heldout":
            options["cases"] = evaluation.cases
        elif target is not None:
            options["target"] = target
        if tumor and evaluation.roi_source != "seg":
            options["roi_source"] = evaluation.roi_source
        if threshold_source(evaluation, stage_named(stage)) == "source-val":
            options["threshold"] = evaluation.threshold
    elif run is not None and run.holdout > 0:
        options["holdout"] = run.holdout
    return command_line(kind, stage, to_arguments(options))


def _train_again(run: Run) -> str:
    """The command that started an unfinished run: given again, it resumes."""
    cure = f"give the command that trained {run.folder} again"
    facts = read_json(run.folder / "environment.json", cure, ("command",))
    return "python " + shlex.join(map(str, facts["command"]))


def _missing_run(evaluation: Evaluation, unfinished: Sequence[Run], others: Sequence[Run]) -> str:
    """Why there is nothing to evaluate, and what to do."""
    if unfinished:
        again = _train_again(unfinished[0])
        return f"the training in {unfinished[0].folder} is not finished; it resumes with\n  {again}"
    message = f"no trained {evaluation.stage} in {evaluation.checkpoints} fits"
    there = [f"{run.time} trained on {' '.join(run.sources)}" for run in others if run.done]
    if there:
        message += f" (finished are: {'; '.join(there)})"
    command = _command("train", evaluation.stage, evaluation, evaluation.sources)
    return f"{message}; train it with\n  {command}"


def _chain(checkpoints: Path, folder: Path) -> Result:
    """The result in `folder` with the results before it, as their summaries name them."""
    cure = f"delete {folder} and evaluate that stage again"
    summary = read_json(folder / "summary.json", cure, ("previous", "stage", "target"))
    previous = summary["previous"]
    before = None if previous is None else _chain(checkpoints, checkpoints / previous)
    rows = read_cases(folder / "cases.csv")
    masks = {str(row["case_id"]): str(row.get("mask_sha256")) for row in rows}
    return Result(folder, summary["stage"], summary["target"], before, masks)
