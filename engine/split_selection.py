"""Which cases a run trains on: the splits that a configuration selects, and their guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data.case import Center
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from data.splits import CaseName, Split, four_folds, hold_out, make_split, round_robin
from utils.config import Config


def select_splits(config: Config, centers: dict[str, Center]) -> list[Split]:
    """The splits that sources, target and fold select; a ValueError says what would fit.

    Neither sources nor target given: the whole round robin. A target alone: its fold. Sources
    alone: the fold of the one center with lesions that is left. With `fold`, cross-validation
    inside the target, or inside every center with lesions.
    """
    if config.fold is not None:
        splits = _select_folds(config, centers)
    else:
        splits = _select_round_robin(config, centers)
    return [hold_out(split, centers, config.holdout) for split in splits]


def _select_round_robin(config: Config, centers: dict[str, Center]) -> list[Split]:
    organ, target = config.stage.target, config.target
    if config.sources and target is None:
        left = [n for n, c in centers.items() if c.has_lesions and n not in config.sources]
        if len(left) != 1:
            raise ValueError(
                f"--sources {' '.join(config.sources)} leaves {', '.join(left) or 'no center'} "
                "unseen; name the one to test on by --target"
            )
        target = left[0]
    if target is None:
        return round_robin(centers, organ)
    return [make_split(centers, config.sources or None, target, organ)]


def _select_folds(config: Config, centers: dict[str, Center]) -> list[Split]:
    if config.sources:
        raise ValueError("--fold trains inside --target; leave --sources out")
    if config.target is not None and config.target not in centers:
        raise ValueError(f"--target {config.target}: choose from {', '.join(centers)}")
    names = [name for name, center in centers.items() if center.has_lesions]
    if config.target is not None and config.target not in names:
        raise ValueError(f"--target {config.target} has no lesions and is never tested")
    chosen = names if config.target is None else [config.target]
    splits = [split for name in chosen for split in four_folds(centers[name])]
    return [split for split in splits if config.fold in ("all", str(split.fold))]


def with_contents(split: Split, keys: Mapping[CaseName, str]) -> Split:
    """The split with the content keys of those of its source cases that `keys` has."""
    names = sorted({*split.train_cases, *split.heldout_cases} & set(keys))
    contents = {f"{center}/{case_id}": keys[center, case_id] for center, case_id in names}
    return replace(split, contents=contents)


def keep_prepared(split: Split, prepared: dict[str, list[PreparedCase]]) -> Split:
    """The split without the duplicates that a center drops, and with its cases' contents."""
    there = [case for cases in prepared.values() for case in cases]
    kept = {(case.center, case.case_id): case.content_key for case in there}
    return replace(
        with_contents(split, kept),
        train_cases=tuple(case for case in split.train_cases if case in kept),
        test_cases=tuple(case for case in split.test_cases if case in kept),
        heldout_cases=tuple(case for case in split.heldout_cases if case in kept),
        dropped_cases=tuple(
            case
            for case in (*split.train_cases, *split.heldout_cases, *split.test_cases)
            if case not in kept
        ),
    )


def prepare_splits(
    config: Config, centers: dict[str, Center], splits: Sequence[Split]
) -> dict[str, list[PreparedCase]]:
    """Prepare every center that the splits name.

    The unseen center too: a scan that it shares with a source is refused here.
    """
    names = {name for split in splits for name in (*split.sources, split.target)}
    wanted = [center for name, center in centers.items() if name in names]
    return prepare_centers(
        wanted, Path(config.cache), PrepareSettings(spacing=config.spacing), config.workers
    )


def split_cases(split: Split, prepared: dict[str, list[PreparedCase]]) -> list[PreparedCase]:
    """The training cases of a split.

    Raises ValueError where a case of the test set is among them, or one was not prepared.
    """
    there = {(case.center, case.case_id): case for name in prepared for case in prepared[name]}
    for fault, cases in (
        ("cases of the test set would train", set(split.train_cases) & set(split.test_cases)),
        ("cases to train on were not prepared", set(split.train_cases) - set(there)),
    ):
        if cases:
            names = ", ".join("/".join(case) for case in sorted(cases))
            raise ValueError(f"split for {split.target}: {fault}: {names}")
    wanted = set(split.train_cases)
    return [case for name, case in there.items() if name in wanted]


def heldout_cases(split: Split, prepared: dict[str, list[PreparedCase]]) -> list[PreparedCase]:
    """The held-out cases of a split, prepared."""
    wanted = set(split.heldout_cases)
    return [c for cases in prepared.values() for c in cases if (c.center, c.case_id) in wanted]
