"""Centers: what centers.toml may say, and the splits that come of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from data.case import DataError
from data.centers import Center, Split, four_folds, load_centers, make_split, round_robin
from data.readers.files import CaseFiles

EXAMPLE = Path(__file__).resolve().parents[1] / "centers.example.toml"


def write_toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "centers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as error:
        load_centers(path)
    return error.value.problems


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


def test_every_key_is_read_and_paths_start_at_the_file(tmp_path: Path) -> None:
    path = write_toml(
        tmp_path,
        """
        [centers.NORTH]
        reader = "msd"
        path = "north"
        tumor_threshold = 0.7

        [centers.SOUTH]
        reader = "folder"
        path = "/data/south"
        has_lesions = false
        images = "ct"
        labels = "seg"
        image_suffix = "_ct"
        label_suffix = "_seg"
        label_map = {background = 0, pancreas = [1, 4, 5], tumor = []}
        label_geometry = "image"
        patient_pattern = "^(P[0-9]+)"
        exclude = ["P7"]
        drop_doubles = true
        """,
    )
    centers = load_centers(path)
    assert list(centers) == ["NORTH", "SOUTH"]
    north, south = centers.values()
    assert north == Center("NORTH", "msd", tmp_path / "north", tumor_threshold=0.7)
    assert south.path == Path("/data/south")
    assert not south.has_lesions
    assert south.label_map == {"background": (0,), "pancreas": (1, 4, 5), "tumor": ()}
    assert (south.images, south.labels) == ("ct", "seg")
    assert (south.image_suffix, south.label_suffix) == ("_ct", "_seg")
    assert south.label_geometry == "image"
    assert south.patient_pattern == "^(P[0-9]+)"
    assert south.exclude == ("P7",)
    assert south.drop_doubles


def test_the_example_file_loads() -> None:
    centers = load_centers(EXAMPLE)
    assert {center.reader for center in centers.values()} == {
        "msd",
        "nih",
        "panorama",
        "nnunet_raw",
        "folder",
    }


def test_all_faults_are_told_at_once_with_file_table_key_and_choices(tmp_path: Path) -> None:
    path = write_toml(
        tmp_path,
        """
        epochs = 3
        [centers.A]
        reader = "msdd"
        path = "a"
        [centers.B]
        reader = "msd"
        tumour_threshold = 0.5
        """,
    )
    problems = problems_of(path)
    assert all(problem.startswith(f"{path}: ") for problem in problems)
    assert "unknown key 'epochs'" in problems[0]
    assert "[centers.A] reader: 'msdd' is not one of msd, nih, panorama, nnunet_raw" in problems[1]
    assert "[centers.B] path: is missing" in problems[2]
    assert "[centers.B] tumour_threshold: unknown key; choose from reader, path" in problems[3]
    assert len(problems) == 4


@pytest.mark.parametrize(
    "line",
    [
        "path = 3",
        'path = ""',
        'has_lesions = "yes"',
        "tumor_threshold = 1.5",
        "tumor_threshold = 0",
        "tumor_threshold = true",
        "label_map = {pancreas = 1.5}",
        "label_map = {lesion = 2}",
        'label_geometry = "flip"',
        'exclude = "case"',
        "exclude = [3]",
        'patient_pattern = "P.*"',
        'patient_pattern = "("',
        "drop_doubles = 1",
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, line: str) -> None:
    other = "" if line.startswith("path") else 'path = "a"\n'
    (problem,) = problems_of(write_toml(tmp_path, f'[centers.A]\nreader = "msd"\n{other}{line}\n'))
    assert f"[centers.A] {line.split(' ')[0]}: " in problem
    assert " is not " in problem


def test_a_key_that_the_reader_ignores_is_refused(tmp_path: Path) -> None:
    path = write_toml(tmp_path, '[centers.A]\nreader = "msd"\npath = "a"\nimages = "ct"\n')
    (problem,) = problems_of(path)
    assert "[centers.A] images: is read by folder, nih, panorama only" in problem


def test_what_is_no_centers_file_is_named(tmp_path: Path) -> None:
    assert "no valid TOML" in problems_of(write_toml(tmp_path, "[centers.A\n"))[0]
    assert "cannot be read" in problems_of(tmp_path / "none.toml")[0]
    assert "holds no table [centers.NAME]" in problems_of(write_toml(tmp_path, ""))[0]
    assert "must be a table" in problems_of(write_toml(tmp_path, "[centers]\nA = 1\n"))[0]
    name = write_toml(tmp_path, '[centers."../x"]\nreader = "msd"\npath = "x"\n')
    assert "a name has letters, digits" in problems_of(name)[0]


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
    content = b'[["B"], "A", [["B", "1"]], [["A", "2"]], null]'
    assert literal.hash == hashlib.sha256(content).hexdigest()


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
