"""Evaluation with reading and writing beside the network, and without; its memory over many cases.

    OMP_NUM_THREADS=1 python benchmarks/bench_evaluation.py [--cases 12] [--rounds 3] [--many 300]

Painted CTs are evaluated by the fine pancreas stage, whose network does its whole work; what it
finds is taken from the brightness instead, so that masks are of an organ's size. Both ways in turn,
with equal results; then many tiny cases in one evaluation. Printed as JSON: `ratio` is the median
over rounds of the time with overlapping steps by that without; `memory_kib_per_case` how much the
process grows, `late_over_early` the time of a case in the last quarter by that in the first.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.intensity import HU_WINDOW
from data.splits import Split
from engine import case_pipeline
from engine.case_metrics import read_cases
from engine.checkpointing import save_checkpoint
from engine.evaluation import run_stage
from engine.pipeline import overlaps
from engine.run_folders import create_run, mark_done
from methods import METHODS, Method, build_method, make_config
from utils.arguments import Count
from utils.config import Evaluation
from utils.device import processor_name
from utils.files import write_text
from utils.scripts import ArgumentParser
from utils.settings import to_plain
from utils.stages import STAGES

NAME, CENTER, TIME = "bench", "C", "20250101-000000"
STAGES_RUN = ("pancreas_coarse", "pancreas_fine")
SPACING_MM = (3.0, 1.5, 1.5)  # of the files and of the prepared cases, (z, y, x)
ORGAN_HU, CUT_HU = 150, 100.0
TINY = (16, 48, 48)  # voxels
OTHERS = ("seconds", "peak_memory_mib")  # columns that differ from run to run


class Brightness(Method):
    """The baseline's network at work, the target where the image is bright."""

    def predict(self, image: Tensor) -> Tensor:
        super().predict(image)
        hu = image * (HU_WINDOW[1] - HU_WINDOW[0]) + HU_WINDOW[0]
        return torch.where(hu > CUT_HU, 0.95, 0.02)


def write_center(folder: Path, cases: int, size: Sequence[int]) -> None:
    """CTs of `size` voxels, each with a texture and an organ of its own, and their labels."""
    for number in range(cases):
        rng = np.random.default_rng(number)
        coarse = rng.normal(0, 40, [max(n // 8, 2) for n in size])
        zoom = [n / m for n, m in zip(size, coarse.shape, strict=True)]
        image = ndimage.zoom(coarse, zoom, order=1) + rng.normal(0, 8, size)
        image[:, : size[1] // 10] = -1000  # air
        squares = [
            ((axis - rng.uniform(0.4, 0.6) * n) / (0.2 * n)) ** 2
            for axis, n in zip(np.indices(size), size, strict=True)
        ]
        label = (sum(squares) < 1).astype(np.uint8)
        image = np.where(label, ORGAN_HU + image / 10, np.minimum(image, CUT_HU - 20))
        for kind, array in (("images", np.rint(image).astype(np.int16)), ("labels", label)):
            file = sitk.GetImageFromArray(array)
            file.SetSpacing(SPACING_MM[::-1])
            (folder / kind).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(file, str(folder / kind / f"case_{number:04d}.nii.gz"))


def prepare(folder: Path, cases: int, size: Sequence[int], width: int) -> Evaluation:
    """A center and a run of both pancreas stages with untrained networks; the fine one's request.

    The coarse stage is evaluated, with a network of width 8 and one input orientation.
    """
    write_center(folder / CENTER, cases, size)
    centers, checkpoints = folder / "centers.toml", folder / "checkpoints"
    write_text(centers, f'[centers.{CENTER}]\nreader = "folder"\npath = "{CENTER}"\n')
    for name in STAGES_RUN:
        is_fine = name == STAGES_RUN[-1]
        stage = STAGES[name] if is_fine else replace(STAGES[name], mirror_axes=())
        settings: dict[str, Any] = {"checkpoints": checkpoints, "spacing": SPACING_MM}
        settings |= {"sources": ("A", "B"), "target": CENTER, "width": width if is_fine else 8}
        config = make_config(stage, NAME, **settings)
        split = Split(config.sources, CENTER, train_cases=(), test_cases=())
        run = create_run(config, TIME, split)
        torch.manual_seed(0)
        content = {"method": build_method(config).state_dict(), "config": to_plain(config)}
        content |= {"split": to_plain(split), "split_hash": split.hash, "signatures": {}, "step": 1}
        save_checkpoint(run.checkpoint, content)
        mark_done(run.folder)
    request = Evaluation(
        STAGES_RUN[0],
        method=NAME,
        centers=centers,
        checkpoints=checkpoints,
        cache=folder / "cache",
        target=CENTER,
        device="cpu",
        precision="fp32",
        workers=0,
    )
    run_stage(request)
    return replace(request, stage=STAGES_RUN[-1])


def evaluate(request: Evaluation, *, overlap: bool) -> tuple[float, float, list[dict[str, Any]]]:
    """Seconds of the clock and of the processor for all cases, and the table without times."""
    with mock.patch.object(case_pipeline, "overlaps", return_value=overlap):
        started = time.perf_counter(), time.process_time()
        (folder,) = run_stage(request)
        seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    rows = read_cases(folder / "cases.csv")
    shutil.rmtree(folder)
    return *seconds, [{k: v for k, v in row.items() if k not in OTHERS} for row in rows]


def measure_overlap(cases: int, size: Sequence[int], width: int, rounds: int) -> dict[str, float]:
    """Both ways in turn, after one evaluation that warms up. Raises where the results differ."""
    taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        request = prepare(Path(name), cases, size, width)
        _, _, expected = evaluate(request, overlap=False)
        for _ in range(rounds):
            for overlap, seconds in taken.items():
                clock, processor, rows = evaluate(request, overlap=overlap)
                seconds.append((clock, processor))
                if rows != expected:
                    raise RuntimeError("overlapping steps have changed a result")
    clocks, processors = ({o: [pair[i] for pair in s] for o, s in taken.items()} for i in (0, 1))
    return {
        "seconds_per_case": median(clocks[False]) / cases,
        "seconds_per_case_overlapping": median(clocks[True]) / cases,
        "ratio": median(a / b for a, b in zip(clocks[True], clocks[False], strict=True)),
        "ratio_of_processor_time": median(
            a / b for a, b in zip(processors[True], processors[False], strict=True)
        ),
    }


def measure_many(cases: int) -> dict[str, float]:
    """Memory and time along one evaluation of many tiny cases."""
    held: list[float] = []
    ended: list[float] = []
    advance = case_pipeline.Progress.advance

    def noting(self: case_pipeline.Progress, values: Any = None) -> None:
        held.append(memory_kib())
        ended.append(time.perf_counter())
        advance(self, values)

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        request = prepare(Path(name), cases, TINY, width=8)
        with mock.patch.object(case_pipeline.Progress, "advance", noting):
            evaluate(request, overlap=overlaps(torch.device("cpu")))
    quarter = cases // 4
    steps = np.diff(ended)
    slope = np.polyfit(np.arange(quarter, cases), held[quarter:], 1)[0]
    return {
        "many_cases": cases,
        "memory_kib_per_case": float(slope),
        "late_over_early": float(np.median(steps[-quarter:]) / np.median(steps[:quarter])),
    }


def memory_kib() -> float:
    """What the process holds now: its own memory and the mapped files (Linux)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1024


def measure(
    *,
    cases: int = 12,
    size: Sequence[int] = (48, 160, 160),
    width: int = 8,
    rounds: int = 3,
    many: int = 300,
    threads: int = 1,
) -> dict[str, Any]:
    """All numbers of one call, by name. `threads`: of the network."""
    METHODS[NAME] = Brightness
    torch.set_num_threads(threads)
    with contextlib.redirect_stdout(io.StringIO()):
        found = measure_overlap(cases, size, width, rounds) | measure_many(many)
    how = {"cases": cases, "width": width, "threads": threads, "cores": os.cpu_count()}
    return {**how, "overlaps_by_default": overlaps(torch.device("cpu")), **found}


def main() -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cases", type=Count, default=12)
    add("--size", type=Count, nargs=3, default=(48, 160, 160), help="voxels (z, y, x)")
    add("--width", type=Count, default=8, help="of the fine stage's network")
    add("--rounds", type=Count, default=3)
    add("--many", type=Count, default=300, help="tiny cases in one evaluation")
    add("--threads", type=Count, default=1, help="of the network")
    args = parser.parse_args()
    found = measure(**vars(args))
    print(json.dumps({"processor": processor_name(), "torch": torch.__version__} | found, indent=2))


if __name__ == "__main__":
    main()
