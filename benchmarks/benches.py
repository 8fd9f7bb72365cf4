"""Which benchmarks `run.py` runs: the module, and what its `measure` gets, in full and by --quick.

A bench is a module of this folder with `measure(...)`, which returns a dict, nested as it likes, of
numbers, texts and None. A name ends with its unit: `_s`, `_ms`, `_mib`, `_per_s`; `_ratio` where it
is how many times as fast ours is. `measure` runs in a process of its own. What it could not measure
because an optional package is missing it names under "not_run": what -> what to install.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOT_RUN = "not_run"


@dataclass(frozen=True)
class Bench:
    """One benchmark. `text`: what it measures, in a few words."""

    module: str
    text: str
    full: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)


BENCHES = {
    "step": Bench(
        "bench_step",
        "synchronisations and launches of a training step, of every method",
        quick={"stages": ("tumor_fine",), "methods": ("bl", "ours")},
    ),
    "gpu_step": Bench(
        "bench_gpu_step",
        "a whole training step on a GPU, its kernels by kind and the matrix rate that it reaches",
        quick={"stages": ("tumor_coarse",), "methods": ("bl",), "voxels": (30_000,), "steps": 1},
    ),
    "network": Bench(
        "bench_network",
        "a training step and a pass of the network, and peers'",
        quick={"size": (32, 32, 32), "views": 1, "width": 8, "rounds": 1},
    ),
    "primitive_cache": Bench(
        "bench_primitive_cache",
        "steps on crops of changing shapes",
        quick={"shapes": 2, "rounds": 1},
    ),
    "inference": Bench(
        "bench_inference",
        "a crop with all eight mirrors: ours, MONAI's and nnU-Net's",
        quick={"size": (16, 32, 32), "patch": (16, 32, 32), "width": 8, "rounds": 1},
    ),
    "sample": Bench(
        "bench_sample",
        "preparing a training sample",
        quick={"shape": (16, 64, 64), "diameter_mm": 15, "rounds": 1},
    ),
    "metrics": Bench(
        "bench_metrics",
        "DSC, ASD and HD95 of a case, and peers'",
        quick={"shape": (10, 30, 30), "pairs": ("small lesion",), "rounds": 1},
    ),
    "prepare": Bench(
        "bench_prepare",
        "resampling a case, and nnU-Net's",
        quick={"shape": (8, 24, 24), "rounds": 1},
    ),
    "memory": Bench("bench_memory", "what a training step keeps in a GPU's memory"),
    "evaluation": Bench(
        "bench_evaluation",
        "seconds and memory of an evaluation per case",
        quick={"cases": 2, "size": (24, 64, 64), "rounds": 1, "many": 10},
    ),
    "phantoms": Bench(
        "bench_phantoms",
        "drawing and writing a synthetic case",
        quick={"sizes": ("demo",), "cases": 1},
    ),
    "startup": Bench(
        "bench_startup",
        "from a script's start to the end of its --help",
        quick={"rounds": 1},
    ),
    "check": Bench(
        "bench_check",
        "data/check.py per case, new and remembered",
        quick={"size": "demo", "cases": 2},
    ),
    "cascade": Bench(
        "bench_cascade",
        "four stages on a CT, from file to file",
        quick={"size": (24, 64, 64), "width": 8, "cases": 1, "mirrors": False},
    ),
    "scale": Bench(
        "bench_scale",
        "10 to 1,000 cases: prepare, check, evaluate, tables",
        quick={"counts": (4, 8)},
    ),
    "processes": Bench(
        "bench_processes",
        "two training processes against one",
        quick={"epochs": (1, 2), "rounds": 1},
    ),
}
