"""Whether trainings and results still hold: their files, their weights, the data they were made of.

Every finished folder names what it wrote with digests (`run_folders.mark_done`); here they are
compared, with each other and with the data as they are now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from data.case import Center
from data.prepare.prepare_centers import content_keys
from data.prepare.prepared_case import PrepareSettings
from data.splits import CaseName
from engine.case_metrics import read_cases
from engine.external import ExternalPredictor, load_external
from engine.inference import Predictor, load_predictor
from engine.results import Result, why_outdated
from engine.run_folders import DONE, Run, changed_files, config_hash, name_changed, read_run
from methods import EXTERNAL
from models.released import RELEASED
from utils.files import digest_of


def check_run(run: Run, predictor: Predictor | ExternalPredictor) -> None:
    """Raise ValueError where run.json, which runs are found by, is not of its checkpoint."""
    config, split = predictor.config, predictor.split
    assert split is not None
    noted = {
        "method": (run.method, config.method),
        "seed": (run.seed, config.seed),
        "sources": (run.sources, split.sources),
        "target": (run.target, split.target),
        "fold": (run.fold, split.fold),
        "test_cases": (run.test_cases, frozenset(split.test_cases)),
        "heldout_cases": (run.heldout_cases, frozenset(split.heldout_cases)),
        "dropped_cases": (run.dropped_cases, frozenset(split.dropped_cases)),
        "split_hash": (run.split_hash, split.hash),
        "config_hash": (run.config_hash, config_hash(config)),
    }
    wrong = [name for name, (of_run, trained) in noted.items() if of_run != trained]
    if wrong:
        raise ValueError(
            f"{run.folder}: run.json and last.pt differ in {', '.join(wrong)}, so one of them was "
            "changed; restore it, or train again"
        )


def load_trained(run: Run) -> Predictor | ExternalPredictor:
    """What a run has trained, on the CPU. Raises ValueError or OSError where it cannot be read."""
    if run.method in EXTERNAL:
        return load_external(run, "cpu")
    return load_predictor(run.checkpoint, "cpu")


def verify_folder(
    folder: Path, checkpoints: Path, centers: Mapping[str, Center], cache: Path
) -> Iterator[str]:
    """What no longer holds of a run folder and its evaluations: a sentence each.

    `centers`: where the data are now, for what was made from them; those that a run names and that
    are missing there are named too. `cache`: remembers the digests of files that did not change.
    """
    run = read_run(folder)
    if run is None:
        yield f"{folder}: run.json cannot be read, so nothing finds this run; restore it"
        return
    keys: dict[CaseName, str] = {}
    if run.method != RELEASED and (run.done or run.checkpoint.is_file()):
        try:
            predictor = load_trained(run)
            check_run(run, predictor)
        except (ValueError, OSError) as error:
            yield str(error)
            return
        settings = PrepareSettings(spacing=predictor.config.spacing)
        named = [name for name in (*run.sources, str(run.target)) if name in centers]
        keys = content_keys([centers[name] for name in dict.fromkeys(named)], cache, settings)
        missing = [name for name in run.sources if name not in centers]
        if missing:
            yield f"{folder}: its centers {', '.join(missing)} are not in the centers file"
        now = {f"{center}/{case_id}": key for (center, case_id), key in keys.items()}
        changed = {case: now.get(case, "") for case in run.contents if case.split("/")[0] in named}
        before = {case: run.contents[case] for case in changed}
        if changed != before:
            yield f"{folder}: {name_changed(before, changed)} changed since they trained it"
    if not run.done:
        yield f"{folder}: the training is not finished"
    elif changed_files(folder):
        yield f"{folder}: {', '.join(changed_files(folder))} changed since the training ended"
    for result in sorted(folder.glob("evaluation_*")):
        yield from verify_result(result, checkpoints, keys)


def verify_result(folder: Path, checkpoints: Path, keys: Mapping[CaseName, str]) -> Iterator[str]:
    """What no longer holds of an evaluation: its files, its masks, what it was read from, its data.

    `keys`: content keys of the cases as they are now; of other centers nothing is said.
    """
    if not (folder / DONE).is_file():
        yield f"{folder}: the evaluation is not finished"
        return
    try:
        outdated = why_outdated(checkpoints, folder)
        origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
        center, cases = origin["target"], origin["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{folder}: origin.json cannot be read ({error}); evaluate again"
        return
    if outdated:
        yield f"{folder}: {outdated}; evaluate again"
    result = Result(folder, origin["stage"], center, None)
    wrong = [
        str(row["case_id"])
        for row in read_cases(folder / "cases.csv")
        if digest_of(result.mask_path(row["case_id"])) != row.get("mask_sha256")
    ]
    if wrong:
        yield f"{folder}: the masks of {', '.join(wrong)} are missing or changed; evaluate again"
    of_center = {case_id: key for (name, case_id), key in keys.items() if name == center}
    if of_center:
        now = {case: of_center.get(case, "") for case in cases}
        if now != cases:
            yield f"{folder}: {name_changed(cases, now)} of {center} changed since; evaluate again"
