"""Copies of scans that are found, and different patients that are taken for copies.

    python benchmarks/bench_duplicates.py --cases 8 --ct FOLDER

Makes phantoms of several scanners (demo size), changes each in ways that copies of public data sets
differ in, and looks for every copy among all originals. `--ct`: a folder whose CTs (.nii.gz, no
labels: names that end in ct.nii.gz) are added. Printed for each kind: copies found and of how many,
by which sign they are found first, and false matches; then how large a signature is, and how long
it takes to sign an image and to compare thousands of scans (`--compared`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy import ndimage

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.case import HU_RANGE, Triple
from data.phantom.centers import CENTERS
from data.phantom.generate import make_phantom
from data.prepare.duplicates import SEARCHES
from data.prepare.resample import grid_weights, output_shape, resample_image
from data.prepare.signature import Signature, sign_image
from data.readers import load_image
from utils.arguments import Count
from utils.scripts import ArgumentParser

Scan = tuple[np.ndarray, Triple]  # int16 HU (z, y, x), mm
Change = Callable[[Scan, np.random.Generator], Scan]


def chain(*changes: Change) -> Change:
    """One change after the other."""

    def apply(scan: Scan, rng: np.random.Generator) -> Scan:
        for change in changes:
            scan = change(scan, rng)
        return scan

    return apply


def turn(scan: Scan, rng: np.random.Generator) -> Scan:
    """Other axes, and mirrored: the header was lost."""
    image, (z, y, x) = scan
    return image.transpose(1, 2, 0)[::-1], (y, x, z)


def mirror(scan: Scan, rng: np.random.Generator) -> Scan:
    """Left and right, feet and head exchanged."""
    return scan[0][::-1, :, ::-1], scan[1]


def pad(scan: Scan, rng: np.random.Generator) -> Scan:
    """Air around it, another width at each side."""
    widths = [tuple(int(n) for n in rng.integers(1, 20, 2)) for _ in range(3)]
    return np.pad(scan[0], widths, constant_values=HU_RANGE[0]), scan[1]


def cut(part: float, low: bool = True, high: bool = False) -> Change:
    """`part` of the slices cut: at the lower end, the upper one, or half of it at each."""

    def apply(scan: Scan, rng: np.random.Generator) -> Scan:
        depth = scan[0].shape[0]
        ends = low + high
        start = round(depth * part / ends) if low else 0
        stop = depth - (round(depth * part / ends) if high else 0)
        return scan[0][start:stop], scan[1]

    return apply


def crop_in_plane(scan: Scan, rng: np.random.Generator) -> Scan:
    """A sixth of the rows and columns cut at each side: into the body."""
    _, y, x = (n // 6 for n in scan[0].shape)
    return scan[0][:, y:-y, x:-x], scan[1]


def resample(*spacing: float) -> Change:
    """Another grid, in mm (z, y, x)."""

    def apply(scan: Scan, rng: np.random.Generator) -> Scan:
        z, y, x = spacing
        shape = output_shape(scan[0].shape, scan[1], (z, y, x))
        weights = grid_weights(scan[0].shape, scan[1], shape, (z, y, x))
        return resample_image(scan[0], weights), (z, y, x)

    return apply


def values(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    """A change of the HU alone."""

    def apply(scan: Scan, rng: np.random.Generator) -> Scan:
        changed = np.clip(np.rint(change(scan[0].astype(np.float32), rng)), *HU_RANGE)
        return changed.astype(np.int16), scan[1]

    return apply


def rotate(scan: Scan, rng: np.random.Generator) -> Scan:
    """By 3 degrees in plane, linear."""
    image = ndimage.rotate(scan[0], 3, (1, 2), reshape=False, order=1, cval=HU_RANGE[0])
    return image, scan[1]


def to_256_grays(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Windowed to -100 to 240 HU and stored in 8 bits."""
    return np.rint((np.clip(hu, -100, 240) + 100) * 0.75) / 0.75 - 100


clamp = values(lambda hu, rng: np.clip(hu, -100, 240))
noise_1 = values(lambda hu, rng: hu + rng.integers(-1, 2, hu.shape))
KINDS: dict[str, Change] = {
    "saved again": lambda scan, rng: scan,
    "mirrored": mirror,
    "turned and mirrored": turn,
    "padded": pad,
    "clamped to -100..240 HU": clamp,
    "offset of 1 HU": values(lambda hu, rng: hu + 1),
    "offset of 10 HU": values(lambda hu, rng: hu + 10),
    "30 % of the slices cut, lower end": cut(0.3),
    "30 % of the slices cut, upper end": cut(0.3, low=False, high=True),
    "30 % of the slices cut, both ends": cut(0.3, high=True),
    "80 % of the slices cut, both ends": cut(0.8, high=True),
    "cropped in plane": crop_in_plane,
    "cropped everywhere, padded, offset of 1 HU": chain(
        cut(0.3, high=True), crop_in_plane, pad, values(lambda hu, rng: hu + 1)
    ),
    "noise of 1 HU": noise_1,
    "noise of 10 HU": values(lambda hu, rng: hu + rng.normal(0, 10, hu.shape)),
    "gain of 0.97": values(lambda hu, rng: 0.97 * (hu + 1000) - 1000),
    "resampled to 1.5 x 0.8 x 0.8 mm": resample(1.5, 0.8, 0.8),
    "resampled to 3 x 3 x 3 mm": resample(3, 3, 3),
    "resampled to 5 x 1 x 1 mm, mirrored": chain(resample(5, 1, 1), mirror),
    "resampled to 1.5 mm, turned": chain(resample(1.5, 1.5, 1.5), turn),
    "padded, resampled to 1.5 mm": chain(pad, resample(1.5, 1.5, 1.5)),
    "padded, noise of 1 HU": chain(pad, noise_1),
    "30 % cut, noise of 1 HU": chain(cut(0.3), noise_1),
    "30 % cut, both ends, resampled to 1.5 mm": chain(cut(0.3, high=True), resample(1.5, 1.5, 1.5)),
    "30 % cut, resampled to 5 x 1 x 1 mm, padded": chain(cut(0.3), resample(5, 1, 1), pad),
    "50 % cut, resampled to 3 mm, mirrored": chain(cut(0.5), resample(3, 3, 3), mirror),
    "8 bits, -100..240 HU": values(to_256_grays),
    "rotated by 3 degrees": rotate,
    "cropped in plane, noise of 1 HU": chain(crop_in_plane, noise_1),
}


@dataclass(frozen=True)
class Result:
    """Of one kind of copy: how many, by which sign each was found first, and false matches."""

    total: int
    signs: Counter[str]
    false: int


def make_scans(cases: int, folder: Path | None) -> Iterator[tuple[str, Scan]]:
    """Phantoms of every center, `cases` of each, then the real CTs of `folder`."""
    for name in CENTERS:
        for number in range(cases):
            phantom = make_phantom(name, number, "demo", seed=2022)
            yield f"{name}_{number}", (phantom.image_hu, phantom.spacing)
    for path in sorted(folder.rglob("*ct.nii.gz")) if folder is not None else ():
        case = load_image(path, path.name)
        yield path.name, (case.image_hu, case.spacing)


def compare(originals: Sequence[Signature], copies: Sequence[Signature]) -> Result:
    """Look for the copies among the originals; same place, same patient."""
    signs: dict[int, str] = {}
    false: set[tuple[int, int]] = set()
    for sign, search in SEARCHES.items():
        for i, j in search(copies, originals):
            if i == j:
                signs.setdefault(i, sign)
            else:
                false.add((i, j))
    return Result(len(copies), Counter(signs.values()), len(false))


def unlike(signatures: Sequence[Signature], count: int) -> list[Signature]:
    """`count` signatures of as many different patients, made from real ones, to time a search."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        signature = signatures[number % len(signatures)]
        rows = np.sort(rng.integers(0, len(signature.slabs), int(rng.integers(20, 60))))
        made.append(
            Signature(
                "many",
                str(number),
                np.unique(rng.integers(0, 1 << 60, len(signature.fingerprint), dtype=np.uint64)),
                _disturb(signature.thumbnail, rng),
                _disturb(signature.slabs[rows], rng),
                (signature.extents_mm[rows] * rng.uniform(0.85, 1.15, 2)).astype(np.float32),
            )
        )
    return made


def _disturb(volume: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth changes as large as those between patients."""
    coarse = rng.normal(0, 35, (4, 4, 4))
    smooth = ndimage.zoom(coarse, [n / 4 for n in volume.shape], order=1)
    return np.clip(volume + smooth, 0, 255).astype(np.uint8)


def main() -> None:
    """Print the tables."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=Count, default=8, help="phantoms per center (default: 8)")
    parser.add_argument("--ct", type=Path, help="folder of CTs to add")
    parser.add_argument("--compared", type=Count, default=3000, help="scans of the timed search")
    arguments = parser.parse_args()
    scans = dict(make_scans(arguments.cases, arguments.ct))
    begun = time.process_time()
    originals = [sign_image("original", name, *scan) for name, scan in scans.items()]
    seconds = time.process_time() - begun
    among = compare(originals, originals)
    print(f"{len(originals)} different patients: {among.false} pairs taken for copies\n")
    print(f"{'copy':46}{'found':>10}  {'false':>5}  signs")
    for kind, change in KINDS.items():
        rng = np.random.default_rng(2022)
        copies = [sign_image("copy", name, *change(scan, rng)) for name, scan in scans.items()]
        result = compare(originals, copies)
        signs = ", ".join(f"{sign} {count}" for sign, count in result.signs.items())
        found = f"{result.signs.total()}/{result.total}"
        print(f"{kind:46}{found:>10}  {result.false:5}  {signs}", flush=True)
    sizes = [sum(v.nbytes for v in vars(s).values() if hasattr(v, "nbytes")) for s in originals]
    voxels = sum(scan[0].size for scan in scans.values())
    print(f"\na signature has {max(sizes) / 1000:.1f} kB at most")
    print(f"signing takes {1e9 * seconds / voxels:.0f} s of processor time per 1e9 voxels")
    many = unlike(originals, arguments.compared)
    for sign, search in SEARCHES.items():
        begun, started = time.process_time(), time.perf_counter()
        search(many, many)
        used, passed = time.process_time() - begun, time.perf_counter() - started
        times = f"{used:.1f} s of processor time, {passed:.1f} s"
        print(f"{sign}: {len(many)} scans with each other in {times}")


if __name__ == "__main__":
    main()
