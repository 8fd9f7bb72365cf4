"""Scans that are in two places: a case of the target center in a source breaks the round robin.

A copy is found by what its image is, whatever its name, center, file format or orientation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from data.case import DataError
from data.prepare.signature import Signature, Signed
from data.prepare.similarity import match_fingerprints, match_slabs, match_thumbnails

SEARCHES = {  # the surest sign first: it is the one that is told
    "fingerprint": match_fingerprints,
    "thumbnail": match_thumbnails,
    "slabs": match_slabs,
}
Case = TypeVar("Case", bound=Signed)


@dataclass(frozen=True)
class Duplicate:
    """Two scans that show the same: by which sign, and how similar (1: all of the smaller one)."""

    first: Signature
    second: Signature
    sign: str
    similarity: float


def find_duplicates(signatures: Sequence[Signature]) -> list[Duplicate]:
    """All pairs of scans that show the same, in the order of `signatures`."""
    pairs = _find(signatures, signatures)
    return [
        Duplicate(signatures[i], signatures[j], *pairs[i, j]) for i, j in sorted(pairs) if i < j
    ]


def find_leaks(trained: Sequence[Signature], cases: Sequence[Case]) -> list[tuple[Case, str]]:
    """The cases that show a scan of `trained`, each with the center and case that it is there.

    Names do not matter: a copy is found in another center and under another name.
    """
    pairs = _find([case.signature for case in cases], trained)
    leaks: dict[int, str] = {}
    for i, j in sorted(pairs, key=lambda pair: (pair[0], -pairs[pair][1], pair[1])):
        leaks.setdefault(i, trained[j].name)
    return [(cases[i], name) for i, name in leaks.items()]


def keep_unseen(
    trained: Sequence[Signature], cases: Sequence[Case], drop_leaked: bool
) -> tuple[list[Case], list[str]]:
    """The cases that show no scan of `trained`, and a sentence for each that does.

    Raises `DataError`, which lists them all, unless `drop_leaked`.
    """
    leaks = find_leaks(trained, cases)
    sentences = [f"{case.signature.name} is {name}, which trained this run" for case, name in leaks]
    if leaks and not drop_leaked:
        raise DataError(
            [
                *sentences,
                f"{len(leaks)} of {len(cases)} cases are no test of a run that has trained on the "
                "same scans; evaluate on another center, or leave them out by --drop-leaked",
            ]
        )
    leaked = {id(case) for case, _ in leaks}
    return [case for case in cases if id(case) not in leaked], sentences


def _find(
    a: Sequence[Signature], b: Sequence[Signature]
) -> dict[tuple[int, int], tuple[str, float]]:
    """(place in a, place in b) -> the surest sign of a copy, and its similarity."""
    found: dict[tuple[int, int], tuple[str, float]] = {}
    for sign, search in SEARCHES.items():
        for pair, similarity in search(a, b).items():
            found.setdefault(pair, (sign, similarity))
    return found


def judge_duplicates(
    duplicates: Sequence[Duplicate], dropping: Collection[str]
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Which duplicates are dropped and which are refused.

    `dropping`: the centers that lose their copies; of two such centers the later one.
    Returns (center, case_id) of each dropped case with the name of the one that stays, and a
    problem for each pair of which neither is dropped.
    """
    dropped: dict[tuple[str, str], str] = {}
    problems = []
    for pair in duplicates:
        first, second = pair.first, pair.second
        if second.center in dropping:
            dropped.setdefault((second.center, second.case_id), first.name)
        elif first.center in dropping:
            dropped.setdefault((first.center, first.case_id), second.name)
        else:
            problems.append(
                f"{first.name} and {second.name} are the same scan: list one of them under "
                "exclude, or set drop_duplicates = true for the center that shall lose its copies "
                f"(found by its {pair.sign}, similarity {pair.similarity:.3f})"
            )
    return dropped, problems
