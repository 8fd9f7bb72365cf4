"""How often values that are no Hounsfield units are found, and right ones are not refused.

    python benchmarks/bench_values.py --cases 4
    REAL_CT_DIR=FOLDER python benchmarks/bench_values.py     with every .nii.gz below FOLDER, too

Phantoms of every synthetic scanner, whole, cropped, noisier and padded, are changed as conversions
change them and judged by `data.readers.values.suspect_values`. Printed for each change: images,
how many are refused, refused with the right cure (it gives the HU back to 1 HU), only warned of,
and passed. "As it is" and "cut off at -160 and 240" are right: what is not passed there is a false
alarm. No labels are used.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nibabel as nib
import numpy as np
from tqdm import tqdm

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.phantom.centers import CENTERS
from data.phantom.generate import make_phantom
from data.readers.values import MIN_VOXELS, sample_values, suspect_values
from utils.arguments import Count, Seed
from utils.scripts import ArgumentParser

Change = Callable[[np.ndarray], np.ndarray]
CHANGES: dict[str, Change] = {
    "as it is": lambda hu: hu,
    "cut off at -160 and 240": lambda hu: hu.clip(-160, 240),
    "1024 too high": lambda hu: hu + 1024,
    "1024 too low": lambda hu: hu - 1024,
    "1024 too low, cut off at -1024": lambda hu: (hu - 1024).clip(-1024, 3071),
    "1000 too high": lambda hu: hu + 1000,
    "doubled": lambda hu: 2 * hu,
    "halved": lambda hu: np.rint(hu / 2),
    "-160 to 240 as 0 to 255": lambda hu: np.rint((hu.clip(-160, 240) + 160) / 400 * 255),
    "-1000 to 1000 as 0 to 1": lambda hu: (hu.clip(-1000, 1000) + 1000) / 2000,
    "mean 0, deviation 1": lambda hu: (hu - hu.mean()) / hu.std(),
    "negative in an unsigned type": lambda hu: np.rint(hu) % 65536,
}
PADDINGS = (None, -3024, -2048, -1024, 0)


def list_images(cases: int, seed: int) -> Iterator[tuple[str, np.ndarray, tuple[slice, ...]]]:
    """Name, HU (z, y, x) and a box around the pancreas; real CTs have their middle instead."""
    for name in CENTERS:
        for index in range(cases):
            phantom = make_phantom(name, index, "demo", seed)
            found = np.nonzero(phantom.label)
            box = tuple(slice(max(0, int(i.min()) - 3), int(i.max()) + 4) for i in found)
            yield f"{name}/{index}", phantom.image_hu.astype(np.float32), box
    folder = os.environ.get("REAL_CT_DIR")
    for path in sorted(Path(folder).rglob("*_ct.nii.gz")) if folder else ():
        file = nib.load(path)
        image = np.asarray(file.dataobj, np.float32).T  # type: ignore[attr-defined]
        yield path.name, image, tuple(slice(n // 4, -n // 4) for n in image.shape)


def list_views(
    image: np.ndarray, box: tuple[slice, ...], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The image, its pancreas, its middle without the air around, and with 40 HU of noise."""
    yield image
    yield image[box]
    yield image[(slice(None), *(slice(n // 6, -n // 6) for n in image.shape[1:]))]
    yield (image + rng.normal(0, 40, image.shape).astype(np.float32)).clip(-1024, 3071)


def judge(hu: np.ndarray, change: Change, padding: int | None) -> str:
    """ "refused, right cure", "refused", "warned" or "passed"."""
    stored = change(hu)
    padded = stored
    if padding is not None:
        padded = np.pad(stored, ((0, 0), (8, 8), (8, 8)), constant_values=padding)
    found = suspect_values(sample_values(padded))
    if found is None:
        return "passed"
    if not found.certain:
        return "warned"
    if found.repair is None:
        return "refused"
    error = np.abs(stored * found.repair[0] + found.repair[1] - hu).max()
    return "refused, right cure" if error <= 1 else "refused"


def main() -> None:
    """Measure and print the table."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=Count, default=4, help="phantoms per synthetic center")
    parser.add_argument("--seed", type=Seed, default=7)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in CHANGES}
    images = 0
    for _, image, box in tqdm(list_images(args.cases, args.seed), desc="images", disable=None):
        images += 1
        for view in list_views(image, box, rng):
            if view.size < MIN_VOXELS:
                continue
            for name, change in CHANGES.items():
                counts[name].update(judge(view, change, padding) for padding in PADDINGS)
    print(f"{images} images")
    print("| values | images | refused | with the right cure | warned | passed |")
    print("|---|---|---|---|---|---|")
    for name, found in counts.items():
        refused = found["refused"] + found["refused, right cure"]
        row = (found.total(), refused, found["refused, right cure"])
        print(f"| {name} | {' | '.join(map(str, row))} | {found['warned']} | {found['passed']} |")


if __name__ == "__main__":
    main()
