"""Reading crops of prepared cases: our memory map and the usual whole-file load.

Makes one prepared case of 512 x 512 x 150 voxels (random HU) in a temporary folder and reads the
same random crops in both ways. Prints milliseconds per crop and the memory that each way holds.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nibabel as nib
import numpy as np

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.case import Case, Grid
from data.prepare.prepared_case import IMAGE, LABEL, PreparedCase, PrepareSettings, prepare_case
from utils.arguments import Count, Seed
from utils.scripts import ArgumentParser

SHAPE = (150, 512, 512)
CROPS = {"coarse, Table VI": (64, 224, 224), "fine, Table VI": (32, 128, 128)}


def make_case(folder: Path, rng: np.random.Generator) -> PreparedCase:
    """A case on disk as the cache holds it, and its image as a compressed NIfTI."""
    image_hu = rng.integers(-1024, 1000, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[60:90, 200:300, 150:300] = 1
    direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    grid = Grid(SHAPE[::-1], (0.8, 0.8, 1.5), (0.0, 0.0, 0.0), direction)
    case = prepare_case(
        Case("case", "center", image_hu, label, (1.5, 0.8, 0.8), grid), PrepareSettings()
    )
    for name in (IMAGE, LABEL):
        np.save(folder / name, case.arrays[name])
    nib.save(nib.Nifti1Image(image_hu.T, np.diag([0.8, 0.8, 1.5, 1.0])), folder / "image.nii.gz")
    return PreparedCase(**{**case.__dict__, "folder": folder, "arrays": {}})


def measure(
    read: Callable[[tuple[slice, ...]], np.ndarray],
    size: tuple[int, int, int],
    repeats: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Median and worst milliseconds of reading a crop at a random place."""
    seconds = []
    for _ in range(repeats):
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(SHAPE, size, strict=True)]
        box = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        begun = time.perf_counter()
        crop = read(box)
        seconds.append(time.perf_counter() - begun)
        assert crop.shape == size
    return 1e3 * float(np.median(seconds)), 1e3 * max(seconds)


def private_mib(case: PreparedCase, results: multiprocessing.SimpleQueue[float]) -> None:
    """In a worker: how much memory of its own one epoch of crops costs, MiB."""
    before = _anonymous_mib()
    for z in range(0, SHAPE[0] - 32, 16):
        case.image_hu[z : z + 32, 100:228, 100:228].astype(np.float32).sum()
    results.put(_anonymous_mib() - before)


def _anonymous_mib() -> float:
    """Memory that belongs to this process alone: file pages of a memory map are shared."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=Count, default=50, help="crops per line (default: 50)")
    parser.add_argument("--seed", type=Seed, default=2022, help="of places and voxels")
    repeats, seed = parser.parse_args().repeats, parser.parse_args().seed
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = make_case(folder, rng)
        ways: dict[str, tuple[Callable[[tuple[slice, ...]], np.ndarray], int]] = {
            "memory map": (lambda box: np.array(case.image_hu[box]), repeats),
            "memory map, opened again": (
                lambda box: np.array(np.load(folder / IMAGE, mmap_mode="r")[box]),
                repeats,
            ),
            "whole .npy": (lambda box: np.load(folder / IMAGE)[box], max(3, repeats // 10)),
            "whole .nii.gz": (
                lambda box: np.asarray(nib.load(folder / "image.nii.gz").dataobj).T[box],  # type: ignore[attr-defined]
                3,
            ),
        }
        print(f"{'way':26}{'crop':20}{'median ms':>11}{'worst ms':>11}")
        for way, (read, count) in ways.items():
            for crop, size in CROPS.items():
                median, worst = measure(read, size, count, rng)
                print(f"{way:26}{crop:20}{median:11.2f}{worst:11.2f}")
        results: multiprocessing.SimpleQueue[float] = multiprocessing.get_context(
            "spawn"
        ).SimpleQueue()
        worker = multiprocessing.get_context("spawn").Process(
            target=private_mib, args=(case, results)
        )
        worker.start()
        worker.join()
        volume = case.image_hu.nbytes / 2**20
        print(f"a worker's own memory grew by {results.get():.1f} MiB; the volume has {volume:.0f}")


if __name__ == "__main__":
    main()
