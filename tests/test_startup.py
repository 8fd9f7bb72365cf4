"""What `--help` imports: counted, not timed. Heavy libraries are imported by what uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests._sources import ROOT, is_script, source_files

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
    "scipy.signal",
    "scipy.stats",
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


def test_help_of_every_script_imports_nothing_heavy() -> None:
    assert len(SCRIPTS) > 20
    words = [" ".join(HEAVY), *map(str, SCRIPTS)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["matplotlib", "scipy.stats"])
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
