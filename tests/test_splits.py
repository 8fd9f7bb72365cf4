"""Splits: round robin, folds, held-out cases; no case of a test set ever trains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from data.case import Center, DataError
from data.readers.files import CaseFiles
from data.splits import (
    Split,
    four_folds,
    hold_out,
    make_split,
    round_robin,
    split_from_plain,
)
from utils.settings import to_plain


def files_of(ids: Sequence[str], patients: Sequence[str] | None = None) -> list[CaseFiles]:
    return [
        CaseFiles(case_id, Path(case_id), None, patient)
        for case_id, patient in zip(ids, patients or ids, strict=True)
    ]


CENTERS = {
    "A": Center("A", "msd", Path("/a")),
    "B": Center("B", "msd", Path("/b")),
    "C": Center("C", "folder", Path("/c")),
    "N": Center("N", "nih", Path("/n"), has_lesions=False),
}
CASES = {name: files_of([f"{name}1", f"{name}2"]) for name in CENTERS}


def test_the_round_robin_makes_each_center_with_lesions_the_target_once() -> None:
    splits = round_robin(CENTERS, "tumor", CASES)
    assert [(split.sources, split.target) for split in splits] == [
        (("B", "C"), "A"),
        (("A", "C"), "B"),
        (("A", "B"), "C"),
    ]
    assert splits[0].train_cases == (("B", "B1"), ("B", "B2"), ("C", "C1"), ("C", "C2"))
    assert splits[0].test_cases == (("A", "A1"), ("A", "A2"))


def test_lesion_free_centers_are_sources_of_pancreas_stages_and_never_targets() -> None:
    splits = round_robin(CENTERS, "pancreas", CASES)
    assert [split.target for split in splits] == ["A", "B", "C"]
    assert all("N" in split.sources for split in splits)
    with pytest.raises(DataError, match="N has no lesions and is never a target"):
        make_split(CENTERS, None, "N", "pancreas", CASES)
    with pytest.raises(DataError, match="N has no lesions: a source of pancreas stages only"):
        make_split(CENTERS, ["A", "N"], "B", "tumor", CASES)


def test_given_sources_and_target_make_one_split() -> None:
    split = make_split(CENTERS, ["C"], "A", "tumor", CASES)
    assert (split.sources, split.target) == (("C",), "A")
    with pytest.raises(DataError, match="unknown center 'X'; choose from A, B, C, N"):
        make_split(CENTERS, ["X"], "A", "tumor", CASES)
    with pytest.raises(DataError, match="A is the target and cannot be a source"):
        make_split(CENTERS, ["A", "B"], "A", "tumor", CASES)


def test_a_round_robin_needs_two_centers_with_lesions() -> None:
    with pytest.raises(DataError, match=r"needs two centers with lesions .* not 1 \(A\)"):
        round_robin({name: CENTERS[name] for name in ("A", "N")}, "pancreas", CASES)


def test_a_case_of_the_target_can_never_train() -> None:
    with pytest.raises(ValueError, match="would train: A/A2"):
        Split(("B",), "A", (("B", "B1"), ("A", "A2")), (("A", "A1"),))
    with pytest.raises(ValueError, match="would train: A/A1"):
        Split(("A",), "A", (("A", "A1"), ("A", "A2")), (("A", "A1"),), fold=0)


def test_the_hash_of_a_split_knows_its_cases_and_not_their_order() -> None:
    split = make_split(CENTERS, ["B", "C"], "A", "tumor", CASES)
    assert split.hash == make_split(CENTERS, ["C", "B"], "A", "tumor", CASES).hash
    fewer = {**CASES, "C": files_of(["C1"])}
    assert split.hash != make_split(CENTERS, ["B", "C"], "A", "tumor", fewer).hash
    assert split.hash != make_split(CENTERS, ["B", "C"], "A", "tumor", CASES | {"A": []}).hash
    literal = Split(("B",), "A", (("B", "1"),), (("A", "2"),))
    content = b'[["B"], "A", [["B", "1"]], [["A", "2"]], [], null]'
    assert literal.names_hash == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_split_knows_what_is_in_its_cases() -> None:
    split = Split(("B",), "A", (("B", "1"), ("B", "2")), (("A", "2"),), contents={"B/1": "x"})
    same = replace(split, contents=dict(split.contents))
    other = replace(split, contents={"B/1": "y"})
    assert split.hash == same.hash != other.hash
    assert split.names_hash == other.names_hash
    assert split_from_plain(json.loads(json.dumps(to_plain(split)))) == split


def test_four_folds_take_every_fourth_case_and_test_each_case_once() -> None:
    cases = files_of([f"pancreas_{number:03d}" for number in range(1, 11)])
    splits = four_folds(CENTERS["A"], cases)
    assert [case_id for _, case_id in splits[1].test_cases] == [
        "pancreas_002",
        "pancreas_006",
        "pancreas_010",
    ]
    tested = sorted(case for split in splits for case in split.test_cases)
    assert tested == [("A", files.case_id) for files in cases]
    for number, split in enumerate(splits):
        assert split.fold == number
        assert set(split.train_cases) | set(split.test_cases) == set(tested)


def test_all_scans_of_a_patient_are_in_one_fold() -> None:
    cases = files_of(list("abcdefgh"), ["p", "q", "p", "r", "s", "q", "t", "p"])
    for split in four_folds(CENTERS["A"], cases):
        of = {files.case_id: files.patient_id for files in cases}
        train = {of[case_id] for _, case_id in split.train_cases}
        assert not train & {of[case_id] for _, case_id in split.test_cases}


def test_fewer_patients_than_folds_are_refused() -> None:
    with pytest.raises(DataError, match="A: 4 folds need as many patients, not 3"):
        four_folds(CENTERS["A"], files_of(list("abcd"), list("pqrr")))


def test_cases_that_choose_the_threshold_neither_train_nor_test() -> None:
    b, a = ("B", "B1"), ("A", "A1")
    with pytest.raises(ValueError, match="held-out cases would train: B/B1"):
        Split(("B",), "A", (b,), (a,), heldout_cases=(b,))
    with pytest.raises(ValueError, match="would choose the threshold: A/A2"):
        Split(("B",), "A", (b,), (a,), heldout_cases=(("A", "A2"),))  # the target, though no test
    with pytest.raises(ValueError, match="would choose the threshold: A/A1"):
        Split(("A",), "A", (("A", "A2"),), (a,), fold=0, heldout_cases=(a,))


def test_a_tenth_of_each_source_centers_patients_is_held_out_evenly_spaced() -> None:
    cases = {
        "A": files_of(["a"]),
        "B": files_of([f"b{k:02d}" for k in range(20)]),
        "C": files_of(["c0", "c1", "c2", "c3"], ["p", "q", "q", "r"]),
        "N": files_of(["n0", "n1", "n2"]),
    }
    split = make_split(CENTERS, None, "A", "pancreas", cases)
    held = hold_out(split, CENTERS, 0.1, cases)
    assert held.heldout_cases == (("B", "b05"), ("B", "b15"), ("C", "c1"), ("C", "c2"))
    assert set(held.train_cases) | set(held.heldout_cases) == set(split.train_cases)
    assert held.hash != split.hash
    assert hold_out(split, CENTERS, 0.0, cases) == split
    # Stages with and without the lesion-free center hold out the same cases.
    tumor = hold_out(make_split(CENTERS, None, "A", "tumor", cases), CENTERS, 0.1, cases)
    assert tumor.heldout_cases == held.heldout_cases


def test_holding_out_leaves_somebody_to_train_on() -> None:
    split = make_split(CENTERS, None, "A", "tumor", CASES)
    with pytest.raises(DataError, match=r"B: holding out 2 of 2 patients.*lower --holdout"):
        hold_out(split, CENTERS, 0.9, CASES)


def test_a_fold_holds_out_of_its_own_training_cases() -> None:
    cases = {"A": files_of([f"a{k}" for k in range(12)])}
    for split in four_folds(CENTERS["A"], cases["A"]):
        held = hold_out(split, CENTERS, 0.25, cases)
        assert len(held.heldout_cases) == 2
        assert set(held.heldout_cases) < set(split.train_cases)
        assert held.test_cases == split.test_cases
