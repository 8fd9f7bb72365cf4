"""Bringing a probability back to a CT's own grid, with BLAS's threads and with one.

    python benchmarks/bench_restore.py [--threads 2] [--rounds 15]

Beside a network whose threads are awake, as in evaluation: a convolution runs before each. Both
ways in turn; medians of the process's CPU seconds and of the clock's, and their ratios by round.
The two results must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from utils.arguments import Count
from utils.scripts import ArgumentParser

SHAPES = ((80, 240, 240), (60, 256, 256))
SPACINGS = ((1.5, 0.8, 0.8), (2.0, 0.75, 0.75))
CROP = (slice(20, 50), slice(80, 160), slice(80, 160))


def main() -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=Count, default=os.cpu_count())
    parser.add_argument("--rounds", type=Count, default=15)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # before numpy is imported
    from unittest import mock

    import numpy as np
    import torch

    from data.prepare import resample

    rng = np.random.default_rng(0)
    prob = np.zeros(SHAPES[0], np.float32)
    prob[CROP] = rng.random(prob[CROP].shape)
    weights = resample.grid_weights(SHAPES[0], SPACINGS[0], SHAPES[1], SPACINGS[1])
    image, kernel = torch.rand(1, 32, 16, 32, 32), torch.rand(32, 32, 3, 3, 3)
    seconds: dict[str, list[tuple[float, float]]] = {"all threads": [], "one thread": []}
    results = {}
    for _ in range(args.rounds + 1):  # the first one warms up
        for name, taken in seconds.items():
            torch.conv3d(image, kernel, padding=1)
            replaced = mock.patch.object(resample, "one_blas_thread", contextlib.nullcontext)
            with replaced if name == "all threads" else contextlib.nullcontext():
                started = time.process_time(), time.perf_counter()
                results[name] = resample.resample_float(prob, weights)
                ended = time.process_time(), time.perf_counter()
            taken.append((ended[0] - started[0], ended[1] - started[1]))
    np.testing.assert_array_equal(results["all threads"], results["one thread"])
    for index, clock in enumerate(("CPU", "clock")):
        before, after = ([pair[index] for pair in taken[1:]] for taken in seconds.values())
        ratio = median(a / b for a, b in zip(after, before, strict=True))
        print(
            f"{clock}, {args.threads} threads: {1e3 * median(before):.1f} ms with all, "
            f"{1e3 * median(after):.1f} ms with one: {ratio:.2f} x"
        )


if __name__ == "__main__":
    main()
