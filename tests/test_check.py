"""The check: every planted fault is listed in one run, and good data sets pass."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Case, Center
from data.centers import load_centers
from data.check import main
from data.quality import facts_cache, survey
from data.quality import findings as findings_module
from data.quality.findings import (
    CheckSettings,
    check_centers,
    format_findings,
    write_findings,
)
from data.readers.files import CaseFiles
from data.readers.listing import Listing
from tests.volumes import to_image, write_dicom, write_volume

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (10, 20, 24)
SPACING = (5.0, 1.5, 1.5)


def make_pair(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Air around soft tissue with organs of its own, and a label with pancreas and tumor."""
    rng = np.random.default_rng(seed)
    image_hu = rng.normal(-1000, 5, shape)
    image_hu[1:-1, 2:-2, 2:-2] += 1050
    for _ in range(12):
        z, y, x = (int(rng.integers(2, n - 5)) for n in shape)
        image_hu[z : z + 3, y : y + 4, x : x + 5] += rng.uniform(-60, 60)
    label = np.zeros(shape, np.uint8)
    label[2:8, 5:15, 5:20] = 1
    label[3:5, 6:9, 6 + seed % 9 : 9 + seed % 9] = 2
    return np.rint(image_hu).astype(np.int16), label


def add_case(
    folder: Path, case_id: str, seed: int, spacing: tuple[float, float, float] = SPACING
) -> None:
    image_hu, label = make_pair(seed)
    write_volume(folder / "images" / f"{case_id}.nii.gz", to_image(image_hu, spacing))
    write_volume(folder / "labels" / f"{case_id}.nii.gz", to_image(label, spacing))


def write_centers(tmp_path: Path, *names: str, **keys: str) -> Path:
    text = ""
    for name in names:
        text += f'[centers.{name}]\nreader = "folder"\npath = "{name}"\n{keys.get(name, "")}\n'
    path = tmp_path / "centers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def plant_faults(folder: Path) -> None:
    """A case per fault, its name says which."""
    for number, name in enumerate(
        ["cut", "values", "fraction", "moved", "empty", "nolabel", "orphan", "sheared", "twice"]
    ):
        add_case(folder, name, 20 + number)
    labels, images = folder / "labels", folder / "images"
    cut = images / "cut.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-2000])
    label = make_pair(21)[1]
    write_volume(labels / "values.nii.gz", to_image(label * 3, SPACING))
    write_volume(labels / "fraction.nii.gz", to_image(label.astype(np.float32) / 2, SPACING))
    moved = to_image(label, SPACING)
    moved.SetOrigin((0.0, 0.0, 0.0))
    write_volume(labels / "moved.nii.gz", moved)
    write_volume(labels / "empty.nii.gz", to_image(np.zeros(SHAPE, np.uint8), SPACING))
    (labels / "nolabel.nii.gz").unlink()
    (images / "orphan.nii.gz").unlink()
    image = to_image(make_pair(27)[0], SPACING)
    image.SetDirection((1, 0, 0, 0, 1, 0.2, 0, 0, 1))
    (images / "sheared.nii.gz").unlink()
    write_volume(images / "sheared.nrrd", image)
    shutil.copy(images / "twice.nii.gz", images / "twice.mha")


def test_every_planted_fault_is_listed_in_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        add_case(tmp_path / "A", f"a{number}", number)
    add_case(tmp_path / "B", "b0", 10)
    plant_faults(tmp_path / "B")
    copy = to_image(make_pair(1)[0].astype(np.float32), SPACING, "RSA")
    write_volume(tmp_path / "B" / "images" / "hidden.nrrd", copy)
    write_volume(tmp_path / "B" / "labels" / "hidden.nrrd", to_image(make_pair(1)[1], SPACING))
    path = write_centers(tmp_path, "A", "B", "MISSING")
    assert main([str(path), "--out", str(tmp_path / "result"), "--no-cache"]) == 1
    printed = capsys.readouterr().out
    expected = [
        ("B/cut: ", "cut short"),
        ("B/values: ", "unknown label value 3"),
        ("B/fraction: ", "must hold integers"),
        ("B/moved: ", "does not lie on its image"),
        ("B/empty: ", "is empty"),
        ("B/nolabel: ", "has no label"),
        ("B/orphan: ", "has no image of the same name"),
        ("B/sheared: ", "not at right angles"),
        ("B/twice: ", "2 files of one name"),
        ("A/a1 and B/hidden ", "are the same scan"),
        ("MISSING: ", "no such folder"),
    ]
    with (tmp_path / "result" / "problems.csv").open(newline="") as stream:
        refused = [row["problem"] for row in csv.DictReader(stream) if row["kind"] == "refused"]
    for start, words in expected:
        assert any(p.startswith(start) and words in p for p in refused), (start, refused)
    assert len(refused) == len(expected)
    assert f"refused: {len(expected)}" in printed
    assert all(problem in printed for problem in refused)


@pytest.mark.slow
def test_good_centers_pass_with_all_files_written(tmp_path: Path) -> None:
    for name, seeds in {"A": (1, 2), "B": (3, 4)}.items():
        for seed in seeds:
            add_case(tmp_path / name, f"case_{seed}", seed)
    write_centers(tmp_path, "A", "B")
    command = [sys.executable, str(ROOT / "data" / "check.py"), "centers.toml", "--workers", "2"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "refused: 0" in found.stdout
    files = {file.name for file in (tmp_path / "check").iterdir()}
    pictures = {name for name in files if name.startswith(("A_", "B_"))}  # of cases with a warning
    assert sorted(files - pictures) == [
        "cases.csv",
        "check.png",
        "check.txt",
        "duplicates.csv",
        "lesions.csv",
        "problems.csv",
        "table1.csv",
    ]
    assert (tmp_path / "check" / "check.png").read_bytes().startswith(b"\x89PNG")


def test_a_faulty_centers_file_is_reported_and_gives_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "centers.toml").write_text('[centers.A]\nreader = "niftii"\npath = "A"\n')
    assert main([str(tmp_path / "centers.toml")]) == 1
    assert "[centers.A] reader: 'niftii' is not one of msd" in capsys.readouterr().err


def test_table_1_holds_the_figures_of_every_center(tmp_path: Path) -> None:
    add_case(tmp_path / "A", "p1_x", 1, (5.0, 0.75, 0.75))
    add_case(tmp_path / "A", "p1_y", 2, (2.5, 0.60, 0.60))
    path = write_centers(tmp_path, "A", A='patient_pattern = "^(p[0-9])"')
    findings = check_centers(load_centers(path), CheckSettings(tmp_path))
    write_findings(findings, tmp_path / "out")
    with (tmp_path / "out" / "table1.csv").open(newline="") as stream:
        table = {row["parameter"]: row["A"] for row in csv.DictReader(stream)}
    volumes = sorted((18 * 5.0 * 0.75**2, 18 * 2.5 * 0.6**2))
    assert table["cases"] == "2"
    assert table["patients"] == "1"
    assert table["slices"] == "10"
    assert table["spacing_mm"] == "0.60-0.75"
    assert table["thickness_mm"] == "2.50-5.00"
    assert table["manufacturer"] == "-"
    assert table["cases_with_lesion"] == "2"
    assert table["lesions"] == "2"
    assert table["lesion_mm3"] == f"{sum(volumes) / 2:.0f} [{volumes[0]:.0f}-{volumes[1]:.0f}]"
    paper = ROOT / "paper" / "table1_datasets.csv"
    with paper.open(newline="") as stream:
        rows = {row["parameter"] for row in csv.DictReader(stream)} - {"patient_cohort"}
    assert rows <= set(table)


def test_lesions_under_10_mm3_are_listed(tmp_path: Path) -> None:
    image_hu, label = make_pair(1)
    label[7, 14, 19] = 2
    write_volume(tmp_path / "A" / "images" / "a.nii.gz", to_image(image_hu, (2.5, 0.8, 0.8)))
    write_volume(tmp_path / "A" / "labels" / "a.nii.gz", to_image(label, (2.5, 0.8, 0.8)))
    findings = check_centers(load_centers(write_centers(tmp_path, "A")), CheckSettings(tmp_path))
    assert findings.tiny == ["A/a: 1.6 mm3 in the tail third"]
    text = format_findings(findings)
    assert "lesions under 10 mm3: 1\n  A/a: 1.6 mm3 in the tail third" in text
    assert findings.refused == []


@pytest.mark.usefixtures("no_overview")
def test_duplicates_are_left_out_when_told(tmp_path: Path) -> None:
    add_case(tmp_path / "A", "a", 1)
    add_case(tmp_path / "B", "b", 1)
    add_case(tmp_path / "B", "c", 2)
    path = write_centers(tmp_path, "A", "B", B="drop_duplicates = true")
    findings = check_centers(load_centers(path), CheckSettings(tmp_path))
    assert findings.refused == []
    assert findings.dropped == ["B/b: is left out, the same scan as A/a"]
    assert [case.case_id for case in findings.facts["B"]] == ["c"]


def check(tmp_path: Path, *more: str) -> int:
    """The check of tmp_path/centers.toml, with a cache of its own."""
    return main([str(tmp_path / "centers.toml"), "--cache", str(tmp_path / "cache"), *more])


@pytest.fixture
def no_overview(monkeypatch: pytest.MonkeyPatch) -> None:
    """check.png takes longer to draw than these tests' cases take to check."""
    monkeypatch.setattr(findings_module, "draw_check", lambda facts, path: None)


def refuse_reading(*_: object) -> None:
    raise AssertionError("a case was read again")


@pytest.mark.usefixtures("no_overview")
def test_the_mapping_between_centers_is_a_table(tmp_path: Path) -> None:
    add_case(tmp_path / "A", "a", 1)
    add_case(tmp_path / "A", "other", 3)
    image_hu, label = make_pair(1)
    write_volume(tmp_path / "B" / "images" / "b.nii.gz", to_image(image_hu[1:, :-2], SPACING))
    write_volume(tmp_path / "B" / "labels" / "b.nii.gz", to_image(label[1:, :-2], SPACING))
    write_centers(tmp_path, "A", "B", B="drop_duplicates = true")
    assert check(tmp_path) == 0
    with (tmp_path / "check" / "duplicates.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row.pop("similarity")) > 0.9
    assert row == {
        "center_a": "A",
        "case_a": "a",
        "center_b": "B",
        "case_b": "b",
        "sign": "fingerprint",
    }


@pytest.mark.usefixtures("no_overview")
def test_a_part_is_checked_alone_and_leaves_the_whole_checks_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("A", "B"):
        for number in range(2):
            add_case(tmp_path / name, f"{name}{number}", ord(name) + number)
    write_centers(tmp_path, "A", "B")
    assert check(tmp_path, "--center", "B", "--case", "B1") == 0
    assert "only a part was checked" in capsys.readouterr().out
    with (tmp_path / "check" / "part" / "cases.csv").open(newline="") as stream:
        assert [row["case_id"] for row in csv.DictReader(stream)] == ["B1"]
    assert not (tmp_path / "check" / "table1.csv").exists()
    assert check(tmp_path, "--center", "D") == 1
    assert "unknown center D; choose from A, B" in capsys.readouterr().err
    assert check(tmp_path, "--case", "C9") == 1
    assert "no center has a case C9" in capsys.readouterr().err


@pytest.mark.usefixtures("no_overview")
def test_one_bad_case_or_center_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("A", "B"):
        for number in range(2):
            add_case(tmp_path / name, f"{name}{number}", ord(name) + number)
    write_centers(tmp_path, "A", "B")
    real_load, real_list = survey.load_case, findings_module.list_center

    def load(center: Center, files: CaseFiles) -> Case:
        if files.case_id == "A1":
            raise KeyError("0028|0030")
        return real_load(center, files)

    monkeypatch.setattr(survey, "load_case", load)
    assert check(tmp_path, "--no-cache") == 1
    printed = capsys.readouterr().out
    assert "refused: 1\n  A/A1: cannot be read (KeyError: '0028|0030')" in printed
    assert "list the case under exclude" in printed

    def list_center(center: Center) -> Listing:
        if center.name == "A":
            raise TypeError("'NoneType' object is not iterable")
        return real_list(center)

    monkeypatch.setattr(findings_module, "list_center", list_center)
    assert check(tmp_path, "--no-cache") == 1
    printed = capsys.readouterr().out
    assert "A: cannot be listed (TypeError: 'NoneType' object is not iterable)" in printed
    with (tmp_path / "check" / "cases.csv").open(newline="") as stream:
        assert [row["case_id"] for row in csv.DictReader(stream)] == ["B0", "B1"]


@pytest.mark.usefixtures("no_overview")
def test_what_was_found_is_counted_for_each_center(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        add_case(tmp_path / "A", f"a{number}", number)
    (tmp_path / "A" / "labels" / "a2.nii.gz").unlink()
    write_centers(tmp_path, "A", A='exclude = ["a0"]')
    assert check(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "A: 3 images and 2 labels found, 1 paired, 1 left out" in printed
    assert "  a0: is listed under exclude" in printed


def test_a_folder_that_cannot_be_written_is_reported_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_case(tmp_path / "A", "a", 1)
    write_centers(tmp_path, "A")
    (tmp_path / "check").write_text("a file where the folder should be")
    monkeypatch.setattr(facts_cache, "survey_case", refuse_reading)
    assert check(tmp_path) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif("REAL_CT_DIR" not in os.environ, reason="REAL_CT_DIR names no real CT")
def test_an_msd_data_set_of_a_real_ct_passes(tmp_path: Path) -> None:
    source = Path(os.environ["REAL_CT_DIR"]) / "totalseg"
    for folder, name in (("imagesTr", "example_ct"), ("labelsTr", "example_pancreas")):
        (tmp_path / "T" / folder).mkdir(parents=True)
        target = tmp_path / "T" / folder / "pancreas_001.nii.gz"
        shutil.copyfile(source / f"{name}.nii.gz", target)
    (tmp_path / "centers.toml").write_text('[centers.T]\nreader = "msd"\npath = "T"\n')
    assert main([str(tmp_path / "centers.toml"), "--no-cache"]) == 0
    (facts,) = check_centers(
        load_centers(tmp_path / "centers.toml"), CheckSettings(tmp_path)
    ).facts["T"]
    size = sitk.ReadImage(str(source / "example_ct.nii.gz")).GetSize()
    assert facts.shape == size[::-1]
    assert facts.pancreas_ml == pytest.approx(695 * 27 / 1000)


def test_the_documents_centers_file_runs_on_the_documents_trees(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    toml = text.split("```toml\n")[1].split("```")[0]
    (tmp_path / "centers.toml").write_text(toml, encoding="utf-8")
    pairs = {
        "MSD": ("Task07_Pancreas/imagesTr/pancreas_001.nii.gz", "labelsTr/pancreas_001.nii.gz"),
        "RENJI": ("RENJI/images/P001.nrrd", "labels/P001.nrrd"),
        "RMYY": ("Dataset101_RMYY/imagesTr/CASE_0000.nii.gz", "labelsTr/CASE.nii.gz"),
        "PANORAMA": (
            "PANORAMA/batch_1/100001_00001_0000.nii.gz",
            "panorama_labels/manual_labels/100001_00001.nii.gz",
        ),
    }
    for seed, (image, label) in enumerate(pairs.values()):
        image_hu, classes = make_pair(seed)
        root = tmp_path / image.split("/")[0]
        write_volume(tmp_path / image, to_image(image_hu, SPACING))
        write_volume(root / label, to_image(classes, SPACING))
    labels = '{"labels": {"background": 0, "pancreas": 1, "tumor": 2}}'
    (tmp_path / "Dataset101_RMYY" / "dataset.json").write_text(labels)
    write_volume(tmp_path / "Pancreas-CT/TCIA_pancreas_labels/label0001.nii.gz", make_pair(9)[1])
    write_dicom(tmp_path / "Pancreas-CT/PANCREAS_0001/study/series", make_pair(9)[0])
    relabel_panorama(tmp_path / "PANORAMA" / pairs["PANORAMA"][1])
    relabel_nih(tmp_path / "Pancreas-CT/TCIA_pancreas_labels/label0001.nii.gz")
    findings = check_centers(load_centers(tmp_path / "centers.toml"), CheckSettings(tmp_path))
    assert findings.refused == []
    assert {name: len(facts) for name, facts in findings.facts.items()} == {
        "MSD": 1,
        "RENJI": 1,
        "RMYY": 1,
        "NIH": 1,
        "PANORAMA": 1,
    }
    assert findings.facts["NIH"][0].acquisition["manufacturer"] == "SIEMENS"


def relabel_panorama(path: Path) -> None:
    """0, 1 pancreas, 2 tumor -> PANORAMA's 0, 4 parenchyma, 1 lesion."""
    label = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.ChangeLabel(label, {1: 4, 2: 1}), str(path))


def relabel_nih(path: Path) -> None:
    """No lesions."""
    sitk.WriteImage(sitk.ReadImage(str(path)) > 0, str(path))
