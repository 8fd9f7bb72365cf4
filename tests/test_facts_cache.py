"""What the check remembers: nothing unchanged is read twice, nothing that changed is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case import Center
from data.quality import facts_cache
from data.quality import findings as findings_module
from data.readers.files import CaseFiles
from tests.test_check import SPACING, add_case, check, make_pair, refuse_reading, write_centers
from tests.volumes import to_image, write_volume


@pytest.fixture(autouse=True)
def no_overview(monkeypatch: pytest.MonkeyPatch) -> None:
    """check.png takes longer to draw than these tests' cases take to check."""
    monkeypatch.setattr(findings_module, "draw_check", lambda facts, path: None)


def test_unchanged_cases_are_remembered_and_changed_ones_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        add_case(tmp_path / "A", f"a{number}", number)
    warned = tmp_path / "check" / "A_a1.png"
    write_volume(
        tmp_path / "A" / "labels" / "a1.nii.gz",
        to_image((make_pair(1)[1] > 0).astype(np.uint8), SPACING),
    )
    write_centers(tmp_path, "A")
    assert check(tmp_path) == 0
    first = capsys.readouterr().out
    assert "A/a1: no tumor in its label" in first
    picture = warned.read_bytes()
    assert picture.startswith(b"\x89PNG")
    warned.unlink()
    read: list[str] = []
    real = facts_cache.survey_case

    def note_reading(center: Center, files: CaseFiles, picture: Path) -> object:
        read.append(files.case_id)
        return real(center, files, picture)

    monkeypatch.setattr(facts_cache, "survey_case", note_reading)
    assert check(tmp_path) == 0
    assert read == []
    assert capsys.readouterr().out == first
    assert warned.read_bytes() == picture
    add_case(tmp_path / "A", "a1", 7)
    assert check(tmp_path) == 0
    assert read == ["a1"]
    assert not warned.exists()
    assert check(tmp_path, "--no-cache") == 0
    assert read == ["a1", "a0", "a1", "a2"]


def test_other_settings_or_other_code_remember_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_case(tmp_path / "A", "a", 1)
    path = write_centers(tmp_path, "A")
    assert check(tmp_path) == 0
    monkeypatch.setattr(facts_cache, "survey_case", refuse_reading)
    assert check(tmp_path) == 0
    write_centers(tmp_path, "A", A="label_map = { pancreas = [1, 2] }")
    with pytest.raises(AssertionError, match="read again"):
        check(tmp_path)
    path.write_text('[centers.A]\nreader = "folder"\npath = "A"\n')
    monkeypatch.setattr(facts_cache, "code_version", lambda: "another")
    with pytest.raises(AssertionError, match="read again"):
        check(tmp_path)
