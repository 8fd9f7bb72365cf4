"""Centers: what centers.toml may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.case import Center, DataError
from data.centers import load_centers

EXAMPLE = Path(__file__).resolve().parents[1] / "centers.example.toml"


def write_toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "centers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as error:
        load_centers(path)
    return error.value.problems


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
        drop_duplicates = true
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
    assert south.drop_duplicates


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
        "drop_duplicates = 1",
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, line: str) -> None:
    other = "" if line.startswith("path") else 'path = "a"\n'
    (problem,) = problems_of(write_toml(tmp_path, f'[centers.A]\nreader = "msd"\n{other}{line}\n'))
    assert f"[centers.A] {line.split(' ')[0]}: " in problem
    assert " is not " in problem


def test_a_renamed_key_is_told_with_its_new_name(tmp_path: Path) -> None:
    path = write_toml(tmp_path, '[centers.A]\nreader = "msd"\npath = "a"\ndrop_doubles = true\n')
    (problem,) = problems_of(path)
    assert "[centers.A] drop_doubles: is called drop_duplicates now" in problem


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
