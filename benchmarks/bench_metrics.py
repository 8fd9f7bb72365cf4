"""Surface metrics: ours and medpy's, side by side, on pairs of 64 x 224 x 224 voxels.

    python benchmarks/bench_metrics.py

One line per pair of masks: seconds of one `surface_metrics` (ASD, HD, larger directed HD), of
medpy's `assd` and of its `hd95`; how many times faster ours is than `assd` alone and than both,
which is what a table needs; and the largest difference of the two metrics, mm. medpy is in
requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from medpy.metric import binary
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from utils.arguments import Count
from utils.metrics import surface_metrics
from utils.scripts import ArgumentParser

SHAPE = (64, 224, 224)  # the coarse network's input (Table VI)
SPACING = (1.5, 0.8, 0.8)


def bumpy_ellipsoid(
    center: tuple[float, ...], radii: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Ellipsoid with an uneven surface: bool, `SHAPE`; center and radii in voxels."""
    bumps = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 6)
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    squares = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii, strict=True))
    return np.sqrt(squares) + 0.1 * bumps / bumps.std() < 1


def make_pairs(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Prediction and label, by name."""
    lesion = bumpy_ellipsoid((30, 110, 110), (8, 15, 15), rng)
    pancreas = bumpy_ellipsoid((32, 112, 112), (20, 40, 85), rng)
    return {
        "lesion": (bumpy_ellipsoid((31, 114, 112), (8, 14, 16), rng), lesion),
        "pancreas": (bumpy_ellipsoid((33, 114, 112), (20, 38, 85), rng), pancreas),
        "lesion, 0.1 % false": (lesion | (rng.random(SHAPE) < 0.001), lesion),
        "lesion, 1 % false": (lesion | (rng.random(SHAPE) < 0.01), lesion),
        "pancreas, 1 % false": (pancreas | (rng.random(SHAPE) < 0.01), pancreas),
        "scattered 0.1 %": (rng.random(SHAPE) < 0.001, rng.random(SHAPE) < 0.001),
        "scattered 1 %": (rng.random(SHAPE) < 0.01, rng.random(SHAPE) < 0.01),
        "scattered 50 %": (rng.random(SHAPE) < 0.5, rng.random(SHAPE) < 0.5),
        "everything, lesion": (np.ones(SHAPE, dtype=bool), lesion),
    }


def best_seconds(function: Callable[[], object], repeats: int) -> float:
    """Fastest of some runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Print one line per pair."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=Count, default=3, help="the fastest counts (default: 3)")
    repeats = parser.parse_args().repeats
    cv2.setNumThreads(1)  # medpy runs on one core
    print(f"{'pair':20s}    ours   assd   hd95 | faster than assd  than both | difference mm")
    for name, (pred, mask) in make_pairs(np.random.default_rng(0)).items():
        ours = best_seconds(partial(surface_metrics, pred, mask, SPACING), repeats)
        assd = best_seconds(partial(binary.assd, pred, mask, SPACING), repeats)
        hd95 = best_seconds(partial(binary.hd95, pred, mask, SPACING), repeats)
        found = surface_metrics(pred, mask, SPACING)
        difference = max(
            abs(found.asd_mm - binary.assd(pred, mask, SPACING)),
            abs(found.hd95_mm - binary.hd95(pred, mask, SPACING)),
        )
        print(
            f"{name:20s} {ours:7.4f} {assd:6.3f} {hd95:6.3f} | "
            f"{assd / ours:14.1f} x {(assd + hd95) / ours:9.1f} x | {difference:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
