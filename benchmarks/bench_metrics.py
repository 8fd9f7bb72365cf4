"""DSC, ASD and HD95 of a case: ours, medpy, MONAI and surface-distance, side by side.

    python benchmarks/bench_metrics.py [--shape 100 512 512] [--pairs lesion] [--rounds 3]

Every pair of masks twice: as whole volumes, which is how evaluation meets them, and cut out by the
user with one voxel around both. All get the same arrays (MONAI as tensors that are made before the
clock starts), in turn and on one thread; medians of the process's seconds, and how many times as
fast ours is, by round. `ours` is what evaluation does: `crop_to_both`, `dsc`, `surface_metrics`,
with one metric more than asked; `ours_separate` is `dsc`, `asd` and `hd95`, each on its own.
Ours must equal medpy's ASD and HD95. surface-distance measures other surfaces (through the corners
of voxels, weighted by area) and MONAI another HD95 (the larger of two), so these differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.timing import interleaved, medians, peak_mib, times_as_fast
from utils.arguments import Count
from utils.metrics import asd, crop_to_both, dsc, hd95, surface_metrics
from utils.scripts import ArgumentParser

SHAPE = (100, 512, 512)
SPACING = (2.5, 0.75, 0.75)
TOLERANCE_MM = 1e-5
Masks = tuple[np.ndarray, np.ndarray]  # prediction and label
Measure = Callable[[], tuple[float, float, float]]  # DSC in percent, ASD and HD95 in mm
Ways = dict[str, Callable[[np.ndarray, np.ndarray], Measure]]

# Centers relative to the middle and radii, mm (z, y, x): the label's; then the prediction's.
ELLIPSOIDS = {
    "small lesion": (((0, 0, 0), (6, 5, 5)), ((0, 1.5, 1), (7, 4.5, 5))),
    "lesion": (((0, 0, 0), (15, 15, 15)), ((0, 2, 2), (15, 14, 16))),
    "pancreas": (((0, 0, 0), (50, 30, 68)), ((2, 1.5, 0), (50, 28, 68))),
}
PAIRS = (*ELLIPSOIDS, "scattered")  # the lesion, and one false voxel in a thousand everywhere


def make_pair(name: str, shape: Sequence[int], seed: int = 0) -> Masks:
    """Prediction and label of a pair of `PAIRS`, bool of `shape`, at `SPACING`."""
    rng = np.random.default_rng(seed)
    pred, mask = (
        _bumpy_ellipsoid(shape, middle, radii, rng)
        for middle, radii in reversed(ELLIPSOIDS["lesion" if name == "scattered" else name])
    )
    if name == "scattered":
        pred = pred | (rng.random(shape, dtype=np.float32) < 0.001)
    return pred, mask


def _bumpy_ellipsoid(
    shape: Sequence[int],
    middle: Sequence[float],
    radii: Sequence[float],
    rng: np.random.Generator,
) -> np.ndarray:
    """An ellipsoid with an uneven surface."""
    bumps = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 4)
    bumps *= 0.1 / bumps.std()
    for axis, (n, step, c, r) in enumerate(zip(shape, SPACING, middle, radii, strict=True)):
        line = (((np.arange(n, dtype=np.float32) - n // 2) * step - c) / r) ** 2
        bumps += np.expand_dims(line, [a for a in range(3) if a != axis])
    return bumps < 1


def ours(pred: np.ndarray, mask: np.ndarray) -> Measure:
    def measure_pair() -> tuple[float, float, float]:
        crops = crop_to_both(pred, mask)
        found = surface_metrics(*crops, SPACING)
        return dsc(*crops), found.asd_mm, found.hd95_mm

    return measure_pair


def ours_separate(pred: np.ndarray, mask: np.ndarray) -> Measure:
    return lambda: (dsc(pred, mask), asd(pred, mask, SPACING), hd95(pred, mask, SPACING))


def medpy(pred: np.ndarray, mask: np.ndarray) -> Measure:
    binary = importlib.import_module("medpy.metric.binary")
    return lambda: (
        100 * binary.dc(pred, mask),
        binary.assd(pred, mask, SPACING),
        binary.hd95(pred, mask, SPACING),
    )


def monai(pred: np.ndarray, mask: np.ndarray) -> Measure:
    metrics = importlib.import_module("monai.metrics")
    pair = [torch.from_numpy(np.ascontiguousarray(m))[None, None].float() for m in (pred, mask)]
    every: dict[str, Any] = {"include_background": True}
    return lambda: (
        100 * float(metrics.compute_dice(*pair, **every)),
        float(
            metrics.compute_average_surface_distance(
                *pair, symmetric=True, spacing=SPACING, **every
            )
        ),
        float(metrics.compute_hausdorff_distance(*pair, percentile=95, spacing=SPACING, **every)),
    )


def surface_distance(pred: np.ndarray, mask: np.ndarray) -> Measure:
    peer = importlib.import_module("surface_distance")

    def measure_pair() -> tuple[float, float, float]:
        found = peer.compute_surface_distances(mask, pred, SPACING)
        there, back = peer.compute_average_surface_distance(found)
        robust = peer.compute_robust_hausdorff(found, 95)
        return 100 * peer.compute_dice_coefficient(mask, pred), (there + back) / 2, robust

    return measure_pair


OURS: Ways = {"ours": ours, "ours_separate": ours_separate}
PEERS: Ways = {"medpy": medpy, "monai": monai, "surface_distance": surface_distance}
INSTALL = {
    "medpy": "pip install MedPy",
    "monai": "pip install monai",
    "surface_distance": "pip install surface-distance",
}


def measure(
    shape: Sequence[int] = SHAPE,
    pairs: Sequence[str] = PAIRS,
    rounds: int = 3,
    peers: Sequence[str] = tuple(PEERS),
) -> dict[str, Any]:
    """By pair, then by "volume" and "crop": `WAY_s`, and `PEER_ratio`, how many times as fast ours
    is. Under "not_run" the peers that are not installed, with what installs them.

    Raises ValueError where ours is not medpy's.
    """
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    missing = {peer: INSTALL[peer] for peer in peers if not _is_installed(peer)}
    ways = OURS | {peer: PEERS[peer] for peer in peers if peer not in missing}
    found: dict[str, Any] = {}
    for name in pairs:
        pred, mask = make_pair(name, shape)
        found[name] = {
            "volume": _compare(ways, pred, mask, rounds),
            "crop": _compare(ways, *_cut_out(pred, mask), rounds),
        }
    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])
    found["peak_mib"] = peak_mib()
    return found | ({"not_run": missing} if missing else {})


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _cut_out(pred: np.ndarray, mask: np.ndarray) -> Masks:
    """Arrays of their own with one voxel around both masks."""
    first, second = (np.pad(part, 1) for part in crop_to_both(pred, mask))
    return first, second


def _compare(
    ways: Ways,
    pred: np.ndarray,
    mask: np.ndarray,
    rounds: int,
) -> dict[str, float]:
    calls = {name: way(pred, mask) for name, way in ways.items()}
    results: dict[str, tuple[float, float, float]] = {}

    def keep(name: str) -> None:
        results[name] = calls[name]()

    seconds = interleaved(
        {name: partial(keep, name) for name in calls}, rounds, time.process_time, warm_up=0
    )
    found = medians(seconds) | times_as_fast(seconds, "ours")
    if "medpy" in results:
        wrong = np.abs(np.subtract(results["ours"], results["medpy"])).max()
        if not wrong <= TOLERANCE_MM:
            raise ValueError(f"ours {results['ours']} is not medpy's {results['medpy']}")
        found["medpy_difference"] = float(wrong)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table: one line per pair and cut, seconds and ratios of each way."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", type=Count, nargs=3, default=SHAPE, help="z y x, voxels")
    add("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    add("--rounds", type=Count, default=3)
    add("--peers", nargs="*", choices=tuple(PEERS), default=tuple(PEERS))
    asked = parser.parse_args(argv)
    found = measure(asked.shape, asked.pairs, asked.rounds, asked.peers)
    print(f"{asked.shape} voxels of {SPACING} mm; milliseconds, and times as fast as ours is")
    for name in asked.pairs:
        for cut, values in found[name].items():
            texts = [
                f"{way[:-2]} {1000 * seconds:.2f}"
                + (f" ({values[ratio]:.1f} x)" if (ratio := f"{way[:-2]}_ratio") in values else "")
                for way, seconds in values.items()
                if way.endswith("_s")
            ]
            print(f"{name:13} {cut:7} {'  '.join(texts)}", flush=True)
    for peer, install in found.get("not_run", {}).items():
        print(f"{peer}: not run; {install}")
    print(f"peak {found['peak_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
