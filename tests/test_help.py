"""Every script of the project explains itself, from any folder."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests._sources import ROOT, is_script, source_files

SCRIPTS = [path for path in source_files() if is_script(path)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_explains_itself_from_another_folder_and_makes_nothing_there(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert not caught.value.code
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: {script.name}")
    assert err == ""
    assert list(tmp_path.iterdir()) == []


def test_there_are_the_eight_scripts_of_the_stages_and_more() -> None:
    stages = [path for path in SCRIPTS if "_sh_" in path.name]
    assert len(stages) == 8 < len(SCRIPTS)
