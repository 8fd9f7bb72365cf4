"""What `--help` imports: counted, not timed. Heavy libraries are imported by what uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests._sources import ROOT, is_script, source_files
from utils.stages import STAGE_NAMES

HEAVY = (
    "monai",
    "sklearn",
    "matplotlib",
    "seaborn",
    "statsmodels",
    "pandas",
    "fvcore",
    "snakemake",
    "skimage",
    "medpy",
    "onnx",
    "onnxruntime",
    "tensorboard",
    "torch.utils.tensorboard",
    "torch._dynamo",
    "scipy",
    "cv2",
    "SimpleITK",
    "nibabel",
    "pydicom",
    "PIL",
)
# A benchmark compares with what it imports; `--help` of one is read once.
SCRIPTS = [
    path
    for path in source_files()
    if is_script(path) and path.relative_to(ROOT).parts[0] != "benchmarks"
]
# Every one of them in one process, so that Python and PyTorch start once.
PROGRAM = """
import contextlib, io, runpy, sys
heavy, scripts = sys.argv[1].split(), sys.argv[2:]
before = set()
for script in scripts:
    sys.argv = [script, "--help"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as exit_:
            assert exit_.code == 0, (script, exit_.code)
    assert "--help" in printed.getvalue(), script
    for name in sorted(set(heavy) & set(sys.modules) - before):
        print(script, "imports", name, file=sys.stderr)
        before.add(name)
sys.exit(1 if before else 0)
"""


# Before a training or an evaluation begins, every script checks its method's settings.
CHECKS = """
from methods import METHODS, check_method, make_config
from utils.stages import STAGES
for method in METHODS:
    for stage in STAGES.values():
        check_method(make_config(stage, method), ("A", "B"))
print("--help")
"""


def test_help_of_every_script_and_the_checks_of_every_method_import_nothing_heavy(
    tmp_path: Path,
) -> None:
    assert len(SCRIPTS) > 20
    checks = tmp_path / "checks.py"
    checks.write_text(CHECKS)
    words = [" ".join(HEAVY), *map(str, SCRIPTS), str(checks)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# As a user starts them: from another folder, each in a process of its own, which finds this
# project by its script's place alone. Forked, so that PyTorch is loaded once.
EXPLAINED = [path for path in SCRIPTS if "_sh_" in path.stem or path.stem.startswith("figure")]
FORKS = """
import os, runpy, sys, traceback
import torch
place, folder, scripts = sys.argv[1], sys.argv[2], sys.argv[3:]
assert not {"data", "engine", "utils"} & set(sys.modules)
os.chdir(folder)
for script in scripts:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        continue
    name = os.path.join(place, os.path.basename(script))
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{kind}", os.O_CREAT | os.O_WRONLY), number)
    sys.argv, sys.path[0], status = [script, "--help"], os.path.dirname(script), 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as exit_:
        status = exit_.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    with open(f"{name}.status", "w") as handle:
        handle.write(str(status))
    os._exit(0)
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with status, out and err of each script's --help; beside it, where they ran."""
    folder = tmp_path_factory.mktemp("help")
    place, other = folder / "shown", folder / "other"
    for path in (place, other):
        path.mkdir()
    subprocess.run(
        [sys.executable, "-c", FORKS, str(place), str(other), *map(str, EXPLAINED)],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    return place


@pytest.mark.parametrize("script", EXPLAINED, ids=lambda path: path.stem)
def test_a_script_explains_itself_from_another_folder(script: Path, shown: Path) -> None:
    status, out, err = (
        (shown / f"{script.name}.{kind}").read_text() for kind in ("status", "out", "err")
    )
    assert (status, err) == ("0", "")
    assert out.startswith(f"usage: {script.name}")
    assert "default:" in out
    assert list((shown.parent / "other").iterdir()) == []


def test_there_are_scripts_of_every_stage_and_figure_among_them() -> None:
    stages = {f"{kind}_sh_{name}" for kind in ("train", "evaluate") for name in STAGE_NAMES}
    assert {path.stem for path in EXPLAINED} == {*stages, *(f"figure{n}" for n in range(5, 9))}


@pytest.mark.parametrize("name", ["matplotlib", "scipy"])
def test_the_count_sees_an_import(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    parser = "import argparse\nargparse.ArgumentParser().parse_args()\n"
    script.write_text(f"import {name}\n{parser}")
    words = [" ".join(HEAVY), str(script)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"script.py imports {name}" in done.stderr
