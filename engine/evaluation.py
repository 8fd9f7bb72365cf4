"""`run_stage`: one stage's masks and measures on an unseen center, from the stage before it.

Here is what all cases have in common: the run, the threshold, the cases that it may be tested on.
What happens to each of them is in `engine/case_pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.case import Center
from data.centers import load_centers
from data.prepare.duplicates import keep_unseen
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from data.splits import Split
from engine.case_metrics import sort_cases, write_summary
from engine.case_pipeline import Work, evaluate_cases
from engine.external import ExternalPredictor, check_evaluation, finish_pancreas, load_external
from engine.inference import Predictor, load_predictor, load_released_predictor
from engine.provenance import describe_origin, kept_rows, written_by_evaluation
from engine.released_runs import record_released_run
from engine.results import Result, find_previous, pick_runs, result_folder, threshold_source
from engine.run_folders import Run, locked, mark_done, refuse_changed
from engine.threshold_selection import best_threshold, heldout_sweeps
from engine.verification import check_run
from methods import EXTERNAL
from utils.config import Evaluation
from utils.files import check_folder
from utils.leftovers import remove_leftovers
from utils.stages import Stage


def run_stage(evaluation: Evaluation) -> list[Path]:
    """Predict and measure a stage on each center that was asked for; return the result folders.

    Cases that are there already are kept, so that a killed evaluation resumes. Raises
    FileNotFoundError, with the command to give, where a run or an earlier result is missing.
    """
    check_folder("--cache", evaluation.cache, written=False)
    centers = load_centers(evaluation.centers)
    folders = []
    for run, target in pick_runs(evaluation, centers):
        previous = find_previous(evaluation, run, target, centers)
        folders.append(evaluate_run(evaluation, run, centers[target], previous))
    return folders


def evaluate_run(evaluation: Evaluation, run: Run, center: Center, previous: Result | None) -> Path:
    """Predict, write and measure with one run those cases of `center` that are asked for.

    Duplicates that the run's split dropped are left out: another center's copy of them has
    trained. Raises ValueError where a case has trained the run.
    """
    predictor = open_predictor(evaluation, run)
    threshold = choose_threshold(evaluation, run, predictor.stage, center)
    settings = PrepareSettings(spacing=predictor.config.spacing)
    prepared = prepare_centers([center], evaluation.cache, settings, evaluation.workers)
    cases = select_cases(evaluation, run, center.name, prepared[center.name], predictor.split)
    cases, leaked = leave_out_leaked(evaluation, predictor, cases)
    folder = result_folder(run, evaluation.stage, center.name, evaluation)
    result = Result(folder, evaluation.stage, center.name, previous)
    work = Work(evaluation, predictor, threshold, center, result)
    folder.mkdir(parents=True, exist_ok=True)
    if evaluation.released is not None:
        record_released_run(evaluation, run)
    origin = describe_origin(evaluation, run, predictor, threshold, result)
    origin |= {"leaked": leaked}
    with locked(folder):
        for place in (folder, folder / "predictions", folder / "sweeps"):
            remove_leftovers(place, alone=True)
        rows = kept_rows(result, origin, cases)
        there = {row["case_id"] for row in rows}
        evaluate_cases(work, [case for case in cases if case.case_id not in there])
        rows = sort_cases(folder / "cases.csv")
        write_summary(folder / "summary.json", rows, {**origin, **finish_pancreas(folder, rows)})
        mark_done(folder, written_by_evaluation(folder))
    return folder


def open_predictor(evaluation: Evaluation, run: Run) -> Predictor | ExternalPredictor:
    """The run's trained stage or system, or the released file that is evaluated in its place."""
    if run.method in EXTERNAL:
        refuse_changed(run)
        system = load_external(run, evaluation.device)
        check_run(run, system)
        check_evaluation(evaluation, system)
        return system
    device, precision = evaluation.device, evaluation.precision
    window_voxels = evaluation.window_voxels
    if evaluation.released is None:
        refuse_changed(run)
        predictor = load_predictor(
            run.checkpoint, device, precision, stage=evaluation.stage, window_voxels=window_voxels
        )
        check_run(run, predictor)
        return predictor
    print(
        f"{evaluation.released}: nothing tells which cases have trained a released network, so "
        f"nothing checks that those of {evaluation.target} are unseen",
        flush=True,
    )
    return load_released_predictor(
        evaluation.released, evaluation.stage, device, precision, window_voxels=window_voxels
    )


def select_cases(
    evaluation: Evaluation,
    run: Run,
    center: str,
    prepared: Sequence[PreparedCase],
    split: Split | None,
) -> list[PreparedCase]:
    """The cases of `center` to evaluate: all, a fold's test cases, or the held-out ones.

    `split`: of the checkpoint, None where it is not known. Raises ValueError where one of the cases
    has trained the run.
    """
    wanted = {(center, case.case_id) for case in prepared}
    if split is not None:
        wanted -= set(split.dropped_cases)
    if evaluation.cases == "heldout":
        wanted &= set(split.heldout_cases if split else ())
    elif split is not None and split.fold is not None:
        wanted &= set(split.test_cases)
    leaked = sorted(case_id for _, case_id in wanted & set(split.train_cases if split else ()))
    if leaked:
        raise ValueError(
            f"{run.folder} was trained on {', '.join(leaked)} of {center}: a result on them would "
            "be no test; evaluate it on a center that it has not seen"
        )
    return [case for case in prepared if (center, case.case_id) in wanted]


def leave_out_leaked(
    evaluation: Evaluation,
    predictor: Predictor | ExternalPredictor,
    cases: Sequence[PreparedCase],
) -> tuple[list[PreparedCase], list[str]]:
    """The cases that show no scan which trained the run, whatever their names; why others do not.

    A scan is known by its signature, so a copy in another center is found, also one that the
    training's data left out as a duplicate. Raises `DataError` where there is one, unless
    --drop-leaked asks to leave them out.
    """
    trained = [*predictor.signatures.get("train", ())]
    if evaluation.cases != "heldout":  # these have chosen thresholds and the end of the training
        trained += predictor.signatures.get("heldout", ())
    kept, leaked = keep_unseen(trained, cases, evaluation.drop_leaked)
    for sentence in leaked:
        print(f"left out: {sentence}", flush=True)
    return kept, leaked


def choose_threshold(evaluation: Evaluation, run: Run, stage: Stage, center: Center) -> float:
    """The probability above which a voxel is foreground (see `threshold_source`).

    `target`: the target center's own for the tumor, as the paper gives it, or the stage's where
    centers.toml has none. `source-val`: the one that is best on the held-out source cases.
    """
    source = threshold_source(evaluation, stage)
    if source == "source-val":
        return best_threshold(heldout_sweeps(evaluation, run, stage))
    if source == "target" and center.tumor_threshold is not None:
        return center.tumor_threshold
    return stage.threshold
