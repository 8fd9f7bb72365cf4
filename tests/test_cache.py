"""The prepared cache: whole and current, or made again; never used otherwise."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Case, Center, DataError
from data.prepare import prepare_centers as preprocess
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from data.quality import label_check
from data.readers.files import CaseFiles
from tests.volumes import BLOB_SHAPE as SHAPE
from tests.volumes import BLOB_SPACING as SPACING
from tests.volumes import make_center, make_pair, to_image, write_volume
from utils.leftovers import machine, unfinished_path

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def small_pancreas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blob of 2.5 ml that stands for a pancreas here is no reason for a warning."""
    monkeypatch.setattr(label_check, "PANCREAS_ML", (0.0, 500.0))


def prepare(
    center: Center, tmp_path: Path, spacing: tuple[float, float, float] | None = (1.5, 0.8, 0.8)
) -> list[PreparedCase]:
    settings = PrepareSettings(spacing)
    return prepare_centers([center], tmp_path / "cache", settings)[center.name]


def refuse_reading(*_: object) -> None:
    raise AssertionError("a case was read again")


def test_a_second_call_reads_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    center = make_center(tmp_path, "A", (1, 2))
    first = prepare(center, tmp_path)
    said = capsys.readouterr().out
    assert "preparing 2 of 2 cases: about 0.00 GiB in" in said
    assert "GiB free" in said
    monkeypatch.setattr(preprocess, "load_case", refuse_reading)
    second = prepare(center, tmp_path)
    assert capsys.readouterr().out == ""
    assert [case.folder for case in first] == [case.folder for case in second]


def test_other_settings_or_another_label_map_never_share_a_folder(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    other = Center("A", "folder", center.path, label_map={"pancreas": (1, 2)})
    folders = {
        prepare(center, tmp_path)[0].folder,
        prepare(center, tmp_path, (2.0, 1.0, 1.0))[0].folder,
        prepare(center, tmp_path, None)[0].folder,
        prepare(other, tmp_path)[0].folder,
    }
    assert len(folders) == 4


def test_a_changed_file_is_noticed_even_with_its_old_size_and_time(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    path = write_volume(
        center.path / "images" / "case_1.nii.gz", to_image(make_pair(1)[0], SPACING)
    )
    raw = center.path / "images" / "case_1.nii"
    sitk.WriteImage(sitk.ReadImage(str(path)), str(raw))
    path.unlink()
    (before,) = prepare(center, tmp_path)
    times = raw.stat()
    image = sitk.ReadImage(str(raw))
    image[3, 3, 3] += 7
    sitk.WriteImage(image, str(raw))
    os.utime(raw, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert raw.stat().st_size == times.st_size
    (after,) = prepare(center, tmp_path)
    assert after.folder != before.folder
    assert not np.array_equal(after.image_hu, before.image_hu)


def test_voxels_kept_next_to_their_header_are_watched_too(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    path = center.path / "images" / "case_1.mhd"
    sitk.WriteImage(to_image(make_pair(1)[0], SPACING), str(path))
    (center.path / "images" / "case_1.nii.gz").unlink()
    (before,) = prepare(center, tmp_path)
    sitk.WriteImage(to_image(make_pair(5)[0], SPACING), str(path))
    (after,) = prepare(center, tmp_path)
    assert not np.array_equal(after.image_hu, before.image_hu)


def test_voxels_in_a_file_of_another_name_are_watched_too(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    images = center.path / "images"
    (images / "case_1.nii.gz").unlink()
    for seed in (1, 5):
        sitk.WriteImage(to_image(make_pair(seed)[0], SPACING), str(tmp_path / f"made_{seed}.mhd"))
    text = (tmp_path / "made_1.mhd").read_text().replace("made_1.raw", "voxels.bin")
    (images / "case_1.mhd").write_text(text)
    shutil.copyfile(tmp_path / "made_1.raw", images / "voxels.bin")
    (before,) = prepare(center, tmp_path, None)
    shutil.copyfile(tmp_path / "made_5.raw", images / "voxels.bin")
    (after,) = prepare(center, tmp_path, None)
    np.testing.assert_array_equal(before.image_hu, make_pair(1)[0])
    np.testing.assert_array_equal(after.image_hu, make_pair(5)[0])


def test_what_the_readers_noted_is_printed_for_20_cases_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    center = make_center(tmp_path, "A", (1, 2, 3))
    real = preprocess.load_case

    def load(center: Center, files: CaseFiles) -> Case:
        notes = ("is tilted", "has padding") if files.case_id == "case_1" else ()
        return replace(real(center, files), notes=notes)

    monkeypatch.setattr(preprocess, "load_case", load)
    prepare(center, tmp_path)
    said = "warning: A/case_1: is tilted; has padding\n"
    assert capsys.readouterr().out.endswith(said)
    prepare(center, tmp_path)
    assert capsys.readouterr().out == said  # also where the case is cached
    monkeypatch.setattr(preprocess, "MAX_WARNINGS", 0)
    prepare(center, tmp_path)
    assert capsys.readouterr().out == "warning: 1 more cases with warnings; see data/check.py\n"


def test_whatever_reading_a_case_raises_is_its_own_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    center = make_center(tmp_path, "A", (1, 2))
    real = preprocess.load_case

    def load(center: Center, files: CaseFiles) -> Case:
        if files.case_id == "case_1":
            raise KeyError("0028|0030")
        return real(center, files)

    monkeypatch.setattr(preprocess, "load_case", load)
    with pytest.raises(DataError, match=r"^A/case_1: cannot be read \(KeyError: '0028\|0030'\)"):
        prepare(center, tmp_path)
    assert len(list((tmp_path / "cache" / "A").iterdir())) == 1


def test_a_cache_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="give another folder for the cache"):
        prepare(center, tmp_path)


def test_a_copied_data_set_uses_the_same_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    center = make_center(tmp_path, "A", (1,))
    (before,) = prepare(center, tmp_path)
    shutil.copytree(center.path, tmp_path / "moved")
    monkeypatch.setattr(preprocess, "load_case", refuse_reading)
    (after,) = prepare(Center("A", "folder", tmp_path / "moved"), tmp_path)
    assert after.folder == before.folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def flip_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def other_version(path: Path) -> None:
    meta = json.loads(path.read_text())
    meta["version"] += 1
    path.write_text(json.dumps(meta))


def other_box(path: Path) -> None:
    meta = json.loads(path.read_text())
    meta["boxes"]["tumor"][0][0] += 1
    path.write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("image.npy", truncate),
        ("image.npy", flip_one_byte),
        ("image.npy", Path.unlink),
        ("label.npy", truncate),
        ("label.npy", flip_one_byte),
        ("label.npy", Path.unlink),
        ("meta.json", truncate),
        ("meta.json", Path.unlink),
        ("meta.json", other_version),
        ("meta.json", other_box),
    ],
)
def test_a_damaged_cache_is_made_again_and_never_used(
    tmp_path: Path, name: str, damage: object
) -> None:
    center = make_center(tmp_path, "A", (1,))
    (before,) = prepare(center, tmp_path)
    image_hu, label = np.array(before.image_hu), np.array(before.label)
    assert before.folder is not None
    damage(before.folder / name)  # type: ignore[operator]
    (after,) = prepare(center, tmp_path)
    np.testing.assert_array_equal(after.image_hu, image_hu)
    np.testing.assert_array_equal(after.label, label)
    assert after.boxes == before.boxes
    assert len(list((tmp_path / "cache" / "A").iterdir())) == 1


def test_a_cache_that_was_copied_elsewhere_is_checked_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    center = make_center(tmp_path, "A", (1,))
    prepare(center, tmp_path)
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    monkeypatch.setattr(preprocess, "load_case", refuse_reading)
    settings = PrepareSettings()
    (case,) = prepare_centers([center], tmp_path / "copy", settings)["A"]
    assert case.folder is not None
    flip_one_byte(case.folder / "image.npy")
    with pytest.raises(DataError, match="read again"):
        prepare_centers([center], tmp_path / "copy", settings)


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    living = unfinished_path(tmp_path / "cache" / "A" / "case_1-0123")
    left = living.with_name(living.name.replace(f"-{os.getpid()}-", f"-{killed.pid}-"))
    elsewhere = living.with_name(left.name.replace(machine(), "0123456789"))  # the same host name
    old = elsewhere.with_name(elsewhere.name.replace("case_1", "case_2"))
    for path in (left, living, elsewhere, old):
        path.mkdir(parents=True)
        (path / "image.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    (case,) = prepare(center, tmp_path)
    assert case.image_hu.any()
    assert [path.exists() for path in (left, living, elsewhere, old)] == [False, True, True, False]


def test_all_refused_cases_are_told_at_once_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    center = make_center(tmp_path, "A", (1, 2, 3, 4))
    truncate(center.path / "images" / "case_2.nii.gz")
    (center.path / "labels" / "case_3.nii.gz").unlink()
    write_volume(
        center.path / "labels" / "case_4.nii.gz", to_image(np.full(SHAPE, 9, np.uint8), SPACING)
    )
    with pytest.raises(DataError) as error:
        prepare(center, tmp_path)
    cut, unknown, unlabeled = error.value.problems
    assert cut.startswith("A/case_2: ")
    assert "cut short" in cut
    assert unknown.startswith("A/case_4: ")
    assert "unknown label value 9" in unknown
    assert "A/case_3: has no label" in unlabeled
    corrected = Center("A", "folder", center.path, exclude=("case_2", "case_3", "case_4"))
    monkeypatch.setattr(preprocess, "load_case", refuse_reading)
    assert [case.case_id for case in prepare(corrected, tmp_path)] == ["case_1"]


def test_a_center_without_labels_is_prepared_for_prediction(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", (1,))
    shutil.rmtree(center.path / "labels")
    (case,) = prepare(center, tmp_path)
    assert case.label is None
    assert case.boxes == {}


def test_a_scan_in_two_centers_is_refused_or_dropped_when_told(tmp_path: Path) -> None:
    first = make_center(tmp_path, "A", (1, 2))
    second = make_center(tmp_path, "B", (3, 4))
    hidden = to_image(make_pair(2)[0].astype(np.float32), SPACING, "PIR")
    write_volume(tmp_path / "B" / "images" / "case_9.nrrd", hidden)
    write_volume(tmp_path / "B" / "labels" / "case_9.nrrd", to_image(make_pair(2)[1], SPACING))
    settings, cache = PrepareSettings(), tmp_path / "cache"
    with pytest.raises(DataError, match=r"^A/case_2 and B/case_9 are the same scan: .*exclude"):
        prepare_centers([first, second], cache, settings)
    dropping = Center("B", "folder", second.path, drop_duplicates=True)
    prepared = prepare_centers([first, dropping], cache, settings)
    assert [case.case_id for case in prepared["A"]] == ["case_1", "case_2"]
    assert [case.case_id for case in prepared["B"]] == ["case_3", "case_4"]
    earlier = Center("A", "folder", first.path, drop_duplicates=True)
    prepared = prepare_centers([earlier, second], cache, settings)
    assert [case.case_id for case in prepared["A"]] == ["case_1"]
    assert len(prepared["B"]) == 3


def test_too_small_a_disk_is_reported_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    center = make_center(tmp_path, "A", (1,))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="too little space"):
        prepare(center, tmp_path)
    assert not (tmp_path / "cache" / "A").exists()


def test_the_disk_that_is_asked_for_is_what_the_cases_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    center = make_center(tmp_path, "A", (1, 2))
    taken = sum(
        array.nbytes
        for case in prepare(center, tmp_path)
        for array in (case.image_hu, case.label)
        if array is not None
    )
    usage = shutil.disk_usage(tmp_path)
    for part, fits in ((0.9, False), (1.1, True)):
        free = usage._replace(free=int(part * taken))
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: free)
        fresh = tmp_path / f"cache_{fits}"
        if fits:
            assert len(prepare_centers([center], fresh, PrepareSettings())["A"]) == 2
        else:
            with pytest.raises(DataError, match="too little space"):
                prepare_centers([center], fresh, PrepareSettings())


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from data.case import Center
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PrepareSettings
if __name__ == "__main__":
    center = Center("A", "folder", Path({data!r}))
    prepare_centers([center], Path({cache!r}), PrepareSettings(), workers={workers})
"""


def start(tmp_path: Path, center: Center, workers: int) -> subprocess.Popen[bytes]:
    script = tmp_path / f"prepare_{workers}.py"
    values = {"root": str(ROOT), "data": str(center.path), "cache": str(tmp_path / "cache")}
    script.write_text(SCRIPT.format(workers=workers, **values))
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_two_programs_and_many_workers_fill_one_cache_without_harm(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", tuple(range(8)))
    programs = [start(tmp_path, center, workers) for workers in (1, 2)]
    assert [program.wait(timeout=120) for program in programs] == [0, 0]
    assert len(list((tmp_path / "cache" / "A").iterdir())) == 8
    alone = prepare_centers([center], tmp_path / "alone", PrepareSettings())["A"]
    for found, expected in zip(prepare(center, tmp_path), alone, strict=True):
        np.testing.assert_array_equal(found.image_hu, expected.image_hu)
        np.testing.assert_array_equal(found.label, expected.label)


@pytest.mark.slow
def test_a_killed_run_leaves_whole_cases_and_the_next_resumes(tmp_path: Path) -> None:
    center = make_center(tmp_path, "A", tuple(range(40)))
    program = start(tmp_path, center, 1)
    folder = tmp_path / "cache" / "A"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(folder.glob("case_*"))) < 3:
        time.sleep(0.005)
    program.send_signal(signal.SIGKILL)
    program.wait()
    kept = {path.name: (path / "image.npy").stat().st_mtime_ns for path in folder.glob("case_*")}
    assert len(kept) >= 3
    assert len(prepare(center, tmp_path)) == 40
    for name, written in kept.items():
        assert (folder / name / "image.npy").stat().st_mtime_ns == written
