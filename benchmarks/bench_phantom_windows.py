"""How well grey value alone finds the synthetic lesions; run this script without arguments.

For each case the best single HU window [low, high) is searched exhaustively, truth in view, inside
the bounding box of the true pancreas (lesion included), against the lesion's label. Printed
per center: mean and largest of those best Dice (%), so a bound that no thresholding can beat.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.phantom.centers import CENTERS
from data.phantom.generate import make_phantom
from utils.arguments import Count, Seed
from utils.scripts import ArgumentParser

LOWEST_HU, HIGHEST_HU = -150, 450


def best_window_dice(image_hu: np.ndarray, label: np.ndarray, step_hu: int = 3) -> float:
    """Dice (%) of the best window low <= HU < high for label 2 in the box of label > 0.

    `image_hu` and `label` (z, y, x). Windows start and end on multiples of `step_hu` between -150
    and 450 HU. Raises `ValueError` without a lesion.
    """
    if not (label == 2).any():
        raise ValueError("the label has no lesion (value 2)")
    axes = [np.nonzero((label > 0).any(axis=others))[0] for others in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(int(a[0]), int(a[-1]) + 1) for a in axes)
    edges = np.arange(LOWEST_HU, HIGHEST_HU + step_hu, step_hu)
    lesion = label[box] == 2
    every, _ = np.histogram(image_hu[box], edges)
    hit, _ = np.histogram(image_hu[box][lesion], edges)
    every, hit = (np.concatenate([[0], np.cumsum(counts)]) for counts in (every, hit))
    inside = hit[None, :] - hit[:, None]  # [low, high]
    total = every[None, :] - every[:, None]
    dice = 2 * inside / np.maximum(total + lesion.sum(), 1)
    return 100 * float(np.triu(dice).max())


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Count, default=20, help="cases per center (default: 20)")
    parser.add_argument("--size", choices=("demo", "full"), default="demo", help="default: demo")
    parser.add_argument("--seed", type=Seed, default=2022, help="default: 2022")
    args = parser.parse_args()
    print("center  cases  best window Dice (%): mean  largest")
    means = []
    for name, center in CENTERS.items():
        if center.lesions is None:
            continue
        phantoms = (make_phantom(name, i, args.size, args.seed) for i in range(args.cases))
        scores = [best_window_dice(p.image_hu, p.label) for p in phantoms]
        means.append(np.mean(scores))
        print(f"{name}   {args.cases:5d}  {means[-1]:26.1f}  {max(scores):7.1f}", flush=True)
    print(f"mean    {'':5}  {np.mean(means):26.1f}")


if __name__ == "__main__":
    main()
