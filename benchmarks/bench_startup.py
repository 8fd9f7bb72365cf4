"""Processor seconds from a script's start to the end of its `--help`, beside importing PyTorch.

    python benchmarks/bench_startup.py [--rounds 5]

Each start is a process of its own, in turn; its user and system time. The peers are what they need
before their own work can begin: nnU-Net's training command asked for its help, where it is
installed, and the import of MONAI. PyTorch alone is the bound: no script can do without it.
`NAME_ratio`: how many times as long as the tumor training script's.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.benches import NOT_RUN
from benchmarks.timing import interleaved, medians, times_as_fast
from utils.arguments import Count
from utils.commands import ROOT
from utils.scripts import ArgumentParser

TRAIN = "train"
OURS = {
    TRAIN: ("train_tumor/train_sh_tumor_fine.py", "--help"),
    "evaluate": ("evaluate_tumor/evaluate_sh_tumor_fine.py", "--help"),
    "predict": ("predict.py", "--help"),
    "table": ("reproduce/table5.py", "--help"),
}
NNUNET = "from nnunetv2.run.run_training import run_training_entry as f; f()"
# Name -> what its package is called, what installs it, and the words after `python`.
PEERS = {
    "import_monai": ("monai", "requirements-dev.txt", ("-c", "import monai")),
    "nnunet_train": ("nnunetv2", "requirements-nnunet.txt", ("-c", NNUNET, "--help")),
}


def measure(rounds: int = 5) -> dict[str, Any]:
    """`NAME_s` and `NAME_ratio` of every start; under "not_run" the peers that are missing."""
    words: dict[str, tuple[str, ...]] = {"import_torch": ("-c", "import torch"), **OURS}
    missing = {}
    for name, (package, install, command) in PEERS.items():
        if find_spec(package) is None:
            missing[name] = f"needs {package}: pip install -r {install}"
        else:
            words[name] = command
    ways: dict[str, Callable[[], Any]] = {
        name: partial(_start, command) for name, command in words.items()
    }
    seconds = interleaved(ways, rounds, children_seconds)
    found: dict[str, Any] = {**medians(seconds), **times_as_fast(seconds, TRAIN)}
    return found | ({NOT_RUN: missing} if missing else {})


def children_seconds() -> float:
    """User and system seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start(words: Sequence[str]) -> None:
    """One process, from the project's folder; raises where it fails."""
    subprocess.run(
        [sys.executable, *words], cwd=ROOT, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=Count, default=5)
    for name, value in measure(parser.parse_args(argv).rounds).items():
        print(f"{name:18} {value if isinstance(value, dict) else f'{value:.2f}'}")


if __name__ == "__main__":
    main()
