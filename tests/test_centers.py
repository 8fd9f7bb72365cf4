"""Centers: what centers.toml may say."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from data.case import Center, DataError
from data.centers import load_centers

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "centers.example.toml"


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


def test_the_public_file_gives_three_hospitals_with_lesions() -> None:
    centers = load_centers(ROOT / "centers.public.toml")
    assert [center.has_lesions for center in centers.values()].count(True) == 3
    assert [name for name, center in centers.items() if not center.has_lesions] == ["NIH"]
    north, south = centers["PANORAMA-A"], centers["PANORAMA-B"]
    assert north.path == south.path
    assert (north.site, south.site) == (("NORTH",), ("SOUTH",))
    assert north.sites == ROOT / "data_sets" / "PANORAMA" / "panorama_sites.csv"


def test_keys_of_layouts_and_sites_are_read(tmp_path: Path) -> None:
    (tmp_path / "sites.csv").write_text("case,site\n")
    path = write_toml(
        tmp_path,
        """
        [centers.P]
        reader = "structures"
        path = "p"
        image_suffix = "_ct"
        structures = { pancreas = "pancreas", tumor = ["cyst", "pdac"] }
        sites = "sites.csv"
        site = "North"
        site_case_column = "case"
        site_column = "hospital"
        [centers.D]
        reader = "folder"
        path = "d"
        series = { P1 = "1.2.3" }
        [centers.E]
        reader = "folder"
        path = "e"
        series = "portal"
        sites = "/elsewhere/sites.csv"
        site = ["a", "b"]
        """,
    )
    pants, by_case, one = load_centers(path).values()
    assert pants.structures == {"pancreas": ("pancreas",), "tumor": ("cyst", "pdac")}
    assert pants.sites == tmp_path / "sites.csv"
    assert (pants.site, pants.site_case_column, pants.site_column) == (
        ("North",),
        "case",
        "hospital",
    )
    assert (by_case.series, one.series) == ({"P1": "1.2.3"}, "portal")
    assert (one.sites, one.site) == (Path("/elsewhere/sites.csv"), ("a", "b"))


@pytest.mark.parametrize(
    ("key", "other"),
    [("sites", "site"), ("site", "sites"), ("site_column", "sites"), ("site_case_column", "sites")],
)
def test_a_key_of_sites_alone_is_refused(tmp_path: Path, key: str, other: str) -> None:
    path = write_toml(tmp_path, f'[centers.A]\nreader = "msd"\npath = "a"\n{key} = "x"\n')
    assert f"[centers.A] {key}: needs the key {other} too" in problems_of(path)[0]


@pytest.mark.parametrize(
    ("reader", "line"),
    [
        ("structures", "structures = {liver = ['liver']}"),
        ("structures", "structures = {pancreas = []}"),
        ("structures", "structures = {pancreas = [1]}"),
        ("structures", "structures = {background = 'x'}"),
        ("folder", "series = ''"),
        ("folder", "series = {a = 1}"),
        ("folder", "series = 3"),
    ],
)
def test_a_wrong_value_of_a_layout_key_is_named(tmp_path: Path, reader: str, line: str) -> None:
    text = f"[centers.A]\nreader = '{reader}'\npath = 'a'\n{line}\n"
    (problem,) = problems_of(write_toml(tmp_path, text))
    assert f"[centers.A] {line.split(' ')[0]}: " in problem
    assert " is not " in problem


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


def test_a_renamed_key_is_reported_with_its_new_name(tmp_path: Path) -> None:
    path = write_toml(tmp_path, '[centers.A]\nreader = "msd"\npath = "a"\ndrop_doubles = true\n')
    (problem,) = problems_of(path)
    assert "[centers.A] drop_doubles: is called drop_duplicates now" in problem


def test_a_key_that_the_reader_ignores_is_refused(tmp_path: Path) -> None:
    path = write_toml(tmp_path, '[centers.A]\nreader = "msd"\npath = "a"\nimages = "ct"\n')
    (problem,) = problems_of(path)
    assert "[centers.A] images: is read by folder, nih, panorama, structures only" in problem


def test_a_missing_file_is_looked_for_by_its_full_path_and_can_be_made_from_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = problems_of(Path("my centers.toml"))
    assert problem.startswith("my centers.toml: cannot be read (there is no file ")
    assert f"there is no file {tmp_path / 'my centers.toml'})" in problem
    command = problem.rpartition(": ")[2]
    subprocess.run(shlex.split(command), check=True)
    assert list(load_centers(Path("my centers.toml"))) == list(load_centers(EXAMPLE))


def test_what_is_no_centers_file_is_named(tmp_path: Path) -> None:
    assert "no valid TOML" in problems_of(write_toml(tmp_path, "[centers.A\n"))[0]
    assert "cannot be read (Is a directory)" in problems_of(tmp_path)[0]
    assert "holds no table [centers.NAME]" in problems_of(write_toml(tmp_path, ""))[0]
    assert "must be a table" in problems_of(write_toml(tmp_path, "[centers]\nA = 1\n"))[0]
    name = write_toml(tmp_path, '[centers."../x"]\nreader = "msd"\npath = "x"\n')
    assert "a name has letters, digits" in problems_of(name)[0]
