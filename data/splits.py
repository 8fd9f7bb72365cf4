"""Which cases train and which test: round robin of centers, four folds, held-out cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data.case import Center, DataError
from data.readers import list_cases
from data.readers.files import CaseFiles
from utils.stages import N_FOLDS

ORGANS = ("pancreas", "tumor")  # what a stage segments; lesion-free centers know the first only
CaseName = tuple[str, str]  # (center, case_id)


@dataclass(frozen=True)
class Split:
    """Which cases train and which test; `fold` is None for leave-one-center-out.

    Raises `ValueError` where a test case, or without folds any case of the target, would train or
    choose the threshold, and where a held-out case would train.

    `contents`: "center/case" -> content key (`PreparedCase.content_key`) of each case that trains
    or is held out; empty before the cases are prepared.
    """

    sources: tuple[str, ...]
    target: str
    train_cases: tuple[CaseName, ...]
    test_cases: tuple[CaseName, ...]
    fold: int | None = None
    dropped_cases: tuple[CaseName, ...] = ()  # duplicates that their center drops
    heldout_cases: tuple[CaseName, ...] = ()  # of the sources; they choose a threshold, no more
    contents: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        train, heldout, test = map(set, (self.train_cases, self.heldout_cases, self.test_cases))
        if self.fold is None:
            test |= {case for case in (*train, *heldout) if case[0] == self.target}
        for fault, leaked in (
            ("cases of the test set would train", train & test),
            ("cases of the test set would choose the threshold", heldout & test),
            ("held-out cases would train", heldout & train),
        ):
            if leaked:
                names = ", ".join(f"{center}/{case_id}" for center, case_id in sorted(leaked))
                raise ValueError(f"{fault}: {names}")

    @property
    def hash(self) -> str:
        """sha256 over the names and the contents of the cases; the same on every machine."""
        content = [self.names_hash, *sorted(self.contents.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def names_hash(self) -> str:
        """sha256 over the names of the cases and what each is for, whatever is in their files."""
        content = [
            sorted(self.sources),
            self.target,
            sorted(self.train_cases),
            sorted(self.test_cases),
            sorted(self.heldout_cases),
            self.fold,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def split_from_plain(plain: Mapping[str, Any]) -> Split:
    """The inverse of `utils.settings.to_plain` for a split."""
    lists = ("train_cases", "test_cases", "dropped_cases", "heldout_cases")
    named = {key: tuple((center, case_id) for center, case_id in plain[key]) for key in lists}
    return Split(
        sources=tuple(plain["sources"]),
        target=plain["target"],
        fold=plain["fold"],
        contents=dict(plain.get("contents", {})),  # older checkpoints have none
        **named,
    )


CaseLists = Mapping[str, Sequence[CaseFiles]]


def round_robin(
    centers: Mapping[str, Center], organ: str = "tumor", cases: CaseLists | None = None
) -> list[Split]:
    """One split per center with lesions: it is the target, all others are sources (Sec. IV-C).

    `organ` "pancreas" adds the lesion-free centers to the sources, "tumor" leaves them out; they
    are never a target. `cases`: what to split, by default all that the readers list.
    Raises `DataError` with fewer than two centers with lesions.
    """
    targets = [name for name, center in centers.items() if center.has_lesions]
    if len(targets) < 2:
        raise DataError(
            f"a round robin needs two centers with lesions at least, not {len(targets)} "
            f"({', '.join(targets) or 'none'}); add one, or use the folds inside a center"
        )
    cases = list_all_cases(centers) if cases is None else cases
    return [make_split(centers, None, target, organ, cases) for target in targets]


def make_split(
    centers: Mapping[str, Center],
    sources: Sequence[str] | None,
    target: str,
    organ: str = "tumor",
    cases: CaseLists | None = None,
) -> Split:
    """Train on all of `sources` (None: all other centers that fit `organ`), test on `target`.

    Raises `DataError` for an unknown center, the target among the sources, a lesion-free target,
    or a lesion-free source of a tumor stage.
    """
    if organ not in ORGANS:
        raise ValueError(f"unknown organ {organ!r}; choose from {', '.join(ORGANS)}")
    usable = [
        name
        for name, center in centers.items()
        if name != target and (center.has_lesions or organ == "pancreas")
    ]
    chosen = usable if sources is None else list(sources)
    for name in [target, *chosen]:
        if name not in centers:
            raise DataError(f"unknown center {name!r}; choose from {', '.join(centers)}")
    if target in chosen:
        raise DataError(f"center {target} is the target and cannot be a source too")
    if not centers[target].has_lesions:
        raise DataError(f"center {target} has no lesions and is never a target")
    refused = [name for name in chosen if name not in usable]
    if refused:
        raise DataError(f"center {refused[0]} has no lesions: a source of pancreas stages only")
    if not chosen:
        raise DataError(f"no source center is left for target {target}; add one")
    if cases is None:
        cases = list_all_cases({name: centers[name] for name in [*chosen, target]})
    return Split(
        sources=tuple(chosen),
        target=target,
        train_cases=tuple((name, files.case_id) for name in chosen for files in cases[name]),
        test_cases=tuple((target, files.case_id) for files in cases[target]),
    )


def four_folds(
    center: Center, cases: Sequence[CaseFiles] | None = None, n_folds: int = N_FOLDS
) -> list[Split]:
    """Cross-validation inside a center (Table IV): fold k tests patients k, k + 4, k + 8, ...

    Patients are numbered from 0 in the order of their first case id; all scans of a patient are in
    one fold. Raises `DataError` with fewer patients than folds.
    """
    cases = list_cases(center) if cases is None else cases
    patients = list(dict.fromkeys(files.patient_id for files in cases))
    if len(patients) < n_folds:
        raise DataError(
            f"{center.name}: {n_folds} folds need as many patients, not {len(patients)}"
        )
    fold_of = {patient: number % n_folds for number, patient in enumerate(patients)}
    splits = []
    for fold in range(n_folds):
        test = tuple((center.name, f.case_id) for f in cases if fold_of[f.patient_id] == fold)
        train = tuple((center.name, f.case_id) for f in cases if fold_of[f.patient_id] != fold)
        splits.append(Split((center.name,), center.name, train, test, fold))
    return splits


def hold_out(
    split: Split, centers: Mapping[str, Center], fraction: float, cases: CaseLists | None = None
) -> Split:
    """The split with a part of each source center's training patients moved to `heldout_cases`.

    About `fraction` of the patients, one at least, evenly spaced in the order of their first case
    id, so that every stage of a split holds out the same ones. Lesion-free centers keep all: they
    say nothing about a tumor's threshold. `fraction` 0 changes nothing.
    Raises `DataError` where a center would have nobody left to train on.
    """
    if fraction == 0:
        return split
    with_lesions = [name for name in split.sources if centers[name].has_lesions]
    if cases is None:
        cases = list_all_cases({name: centers[name] for name in with_lesions})
    heldout: list[CaseName] = []
    train = set(split.train_cases)
    for name in with_lesions:
        there = [files for files in cases[name] if (name, files.case_id) in train]
        patients = list(dict.fromkeys(files.patient_id for files in there))
        count = max(round(fraction * len(patients)), 1)
        if count >= len(patients):
            raise DataError(
                f"{name}: holding out {count} of {len(patients)} patients leaves none to train "
                "on; lower --holdout"
            )
        chosen = {patients[(2 * k + 1) * len(patients) // (2 * count)] for k in range(count)}
        heldout += [(name, files.case_id) for files in there if files.patient_id in chosen]
    kept = tuple(case for case in split.train_cases if case not in set(heldout))
    return replace(split, train_cases=kept, heldout_cases=tuple(heldout))


def list_all_cases(centers: Mapping[str, Center]) -> dict[str, list[CaseFiles]]:
    """Center -> its cases. Raises one `DataError` for all centers that cannot be listed."""
    cases: dict[str, list[CaseFiles]] = {}
    problems: list[str] = []
    for name, center in centers.items():
        try:
            cases[name] = list_cases(center)
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(problems)
    return cases
