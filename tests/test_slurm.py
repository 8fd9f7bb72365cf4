"""The Slurm template, run by a stand-in for sbatch: ends, is stopped, is requeued, resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.run_folders import find_runs
from tests.conftest import ROOT, Tiny

TEMPLATE = ROOT / "docs" / "slurm.sbatch"
PATIENCE_S = 300.0
pytestmark = pytest.mark.slow

# As sbatch: reads the #SBATCH lines, runs the script in the current folder with SLURM_* set.
SBATCH = """#!/bin/bash
options=$(grep '^#SBATCH' "$1")
for needed in --requeue --signal=B:TERM --open-mode=append; do
    echo "$options" | grep -q -- "$needed" || { echo "no $needed" >&2; exit 2; }
done
export SLURM_JOB_ID=7 SLURM_GPUS_ON_NODE=2
exec bash "$@"
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$REQUEUED"\n'


class Cluster:
    """Stand-ins for Slurm's commands, and one job's environment."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.requeued = folder / "bin", folder / "requeued.txt"
        self.bin.mkdir()
        for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def start(self, *args: str) -> subprocess.Popen[str]:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PYTHON": sys.executable, "REQUEUED": str(self.requeued)}
        return subprocess.Popen(
            ["sbatch", str(TEMPLATE), *args],
            cwd=ROOT,
            env={**os.environ, **own, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",  # whatever the locale: messages of PyTorch hold more than ASCII
            errors="replace",
        )


def test_a_stopped_job_saves_is_requeued_and_resumes_to_its_end(tiny: Tiny, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    args = tiny.args(tmp_path / "checkpoints", "--epochs", "40", "--checkpoint-seconds", "3600")
    job = cluster.start(*args)
    assert job.stdout is not None
    while "3 cases" not in job.stdout.readline():
        assert job.poll() is None
    time.sleep(0.3)  # some of its 80 steps
    job.send_signal(signal.SIGTERM)
    text, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, text
    assert cluster.requeued.read_text() == "requeue 7\n", text
    (run,) = find_runs(tmp_path / "checkpoints", "tumor_coarse")
    assert run.checkpoint.is_file(), text
    assert not run.done
    again = cluster.start(*args)
    text, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, text
    assert "resumes from step" in text
    assert run.done
    assert cluster.requeued.read_text() == "requeue 7\n"  # not a second time


def test_a_job_that_fails_is_not_requeued(tiny: Tiny, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    job = cluster.start("--sources", "A", "X", "--target", "C", "--centers", str(tiny.centers))
    text, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode != 0
    assert "unknown center 'X'" in text
    assert not cluster.requeued.exists()
