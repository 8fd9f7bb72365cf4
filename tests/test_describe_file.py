"""predict.py --info: what a checkpoint, a CT or a folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

import predict
from data.readers import load_image
from engine.describe_file import axis_codes, describe_file
from tests._evaluation_fixtures import hu_window, small_stage, write_run
from tests.test_dicom_slices import write_series
from tests.volumes import ORIENTATIONS, make_image_hu, to_image, write_volume
from utils.files import sha256_of


def test_a_checkpoint(tmp_path: Path) -> None:
    run = write_run(tmp_path, small_stage("tumor_fine"), hu_window(0), seed=5, width=16)
    facts = describe_file(run.checkpoint)
    assert facts["stage"] == "tumor_fine, finds the tumor"
    assert (facts["method"], facts["sources"], facts["never saw"]) == ("ours", "A, B", "C")
    assert (facts["seed"], facts["width"], facts["threshold"]) == (5, 16, 0.5)
    assert facts["spacing (z, y, x)"] == "3 x 2.4 x 2.4 mm"
    assert facts["training finished"] == "yes"
    assert facts["sha256"] == sha256_of(run.checkpoint)
    assert describe_file(run.folder) == facts


def test_a_ct(tmp_path: Path) -> None:
    image_hu = make_image_hu()
    path = write_volume(tmp_path / "ct.nrrd", to_image(image_hu, orientation="PIR"))
    facts = describe_file(path)
    assert facts["size (x, y, z)"] == "6 x 5 x 7"  # y, z and x of the body
    assert facts["spacing (x, y, z)"] == "1.3 x 2.9 x 0.7 mm"
    assert facts["axes run to"] == "PIR"
    assert facts["HU"] == f"{image_hu.min()} to {image_hu.max()}"
    assert facts["warnings"] == 0


def test_the_axes_of_every_orientation(tmp_path: Path) -> None:
    for orientation in ORIENTATIONS:
        path = write_volume(
            tmp_path / "ct.nrrd", to_image(make_image_hu(), orientation=orientation)
        )
        assert axis_codes(load_image(path, "ct")) == orientation


def test_dicom_lists_its_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        write_series(tmp_path / "a" / f"s{number}", series=f"1.2.{number}")
    facts = describe_file(tmp_path / "a")
    assert str(facts["series #2"]).startswith("1.2.2 (9 slices)")
    assert "--series" in facts["to read one"]
    assert "size (x, y, z)" not in facts
    predict.main(predict.parse(["--info", str(tmp_path / "a"), "--series", "2"]))
    assert "size (x, y, z): 7 x 6 x 9\n" in capsys.readouterr().out


def test_a_folder_lists_its_scans(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nrrd", make_image_hu())
    (tmp_path / "x.jpg").write_bytes(b"x")
    facts = describe_file(tmp_path)
    assert facts["scans"] == 2
    assert facts["scan b"] == tmp_path / "b.nrrd"
    assert "no format" in facts[f"left out {tmp_path / 'x.jpg'}"]
