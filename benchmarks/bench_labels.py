"""How often the check of labels is wrong, both ways: python benchmarks/bench_labels.py

Labels of phantoms (several centers: scanners, phases, noise) are checked as they are, drawn a bit
too wide or too narrow, mirrored, shifted, and exchanged for another case's; with REAL_CT_DIR set,
also those of labeled CTs there (`*_ct.nii.gz` with `*_pancreas.nii.gz`). Printed for each kind: how
many of how many are warned. The first four kinds should not be, the others should.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy import ndimage

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.case import Case, Center, Triple
from data.phantom.centers import CENTERS
from data.phantom.generate import make_phantom
from data.quality.label_check import check_place
from data.readers import load_case
from data.readers.files import CaseFiles
from data.roi import bounding_box, center_box
from utils.arguments import Count, Seed
from utils.scripts import ArgumentParser

SHIFTS_MM = (5, 10, 15, 20, 30)
RIGHT = ("as given", "1 mm too wide", "1 mm too narrow", "a block of voxels rougher")
MIRRORINGS = tuple(axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n))


def is_warned(case: Case, mask: np.ndarray) -> bool | None:
    """Whether a mask (z, y, x) is warned as the label of this image; None where it is empty."""
    box = bounding_box(mask)
    if box is None:
        return None
    return bool(check_place(case.image_hu, mask.astype(np.uint8), case.spacing, box))


def change_label(case: Case, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """(kind, mask) for each change of one case's label; random directions of shifts."""
    assert case.label is not None
    mask = case.label > 0
    distance = _signed_distance(mask, case.spacing)
    yield RIGHT[0], mask
    yield RIGHT[1], distance < 1
    yield RIGHT[2], distance < -1
    yield (
        RIGHT[3],
        ndimage.zoom(ndimage.zoom(mask * 1.0, 0.5, order=1), 2, order=1)[
            tuple(slice(n) for n in mask.shape)
        ]
        > 0.5,
    )
    for axes in MIRRORINGS:
        yield "mirrored", np.flip(mask, axes)
    for shift_mm in SHIFTS_MM:
        for _ in range(4):
            direction = rng.normal(size=3)
            voxels = shift_mm * direction / np.linalg.norm(direction) / case.spacing
            yield f"shifted by {shift_mm} mm", ndimage.shift(mask * 1.0, voxels, order=1) > 0.5


def _signed_distance(mask: np.ndarray, spacing: Triple) -> np.ndarray:
    """mm to the border, negative inside."""
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    half = np.where(mask, 0.5, -0.5) * min(spacing)
    return outside - inside + half


def fit_into(case: Case, other: Case) -> np.ndarray:
    """The other case's mask on this case's grid, both volumes laid middle on middle."""
    assert other.label is not None
    scale = np.divide(other.spacing, case.spacing)
    mask = ndimage.zoom((other.label > 0) * 1.0, scale, order=1) > 0.5
    result = np.zeros(case.image_hu.shape, bool)
    both = np.minimum(result.shape, mask.shape).tolist()
    result[center_box(result.shape, both).slices] = mask[center_box(mask.shape, both).slices]
    return result


def phantom_cases(count: int, size: str, seed: int) -> list[Case]:
    """`count` phantoms of each synthetic center."""
    cases = []
    for name, number in itertools.product(CENTERS, range(count)):
        found = make_phantom(name, number, size, seed)
        cases.append(_case(f"{name}-{number}", found.image_hu, found.label, found.spacing))
    return cases


def _case(name: str, image_hu: np.ndarray, label: np.ndarray, spacing: Triple) -> Case:
    return Case(name, "", image_hu, label, spacing, grid=None)  # type: ignore[arg-type]


def real_cases(folder: Path) -> list[Case]:
    """The labeled CTs below a folder."""
    center = Center("REAL", "folder", folder, has_lesions=False)
    found = []
    for label in sorted(folder.rglob("*_pancreas.nii.gz")):
        name = label.name.removesuffix("_pancreas.nii.gz")
        image = label.with_name(f"{name}_ct.nii.gz")
        found.append(load_case(center, CaseFiles(name, image, label, name)))
    return found


def measure(cases: list[Case], seed: int) -> dict[str, list[bool]]:
    """Kind of change -> warned or not, for every case and its changes."""
    rng = np.random.default_rng(seed)
    found = defaultdict(list)
    for number, case in enumerate(cases):
        changes = [*change_label(case, rng)]
        if len(cases) > 1:
            other = cases[(number + 1 + int(rng.integers(len(cases) - 1))) % len(cases)]
            changes.append(("another case's", fit_into(case, other)))
        for kind, mask in changes:
            warned = is_warned(case, mask)
            if warned is not None:
                found[kind].append(warned)
    return dict(found)


def to_markdown(columns: dict[str, dict[str, list[bool]]]) -> str:
    """A row for each kind, a column for each set of cases."""
    lines = [
        "| label | " + " | ".join(f"{name}: warned" for name in columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for kind in next(iter(columns.values())):
        cells = [
            f"{sum(found[kind])} of {len(found[kind])}" if kind in found else "not measured"
            for found in columns.values()
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=Count, default=10, help="phantoms per center (default: 10)")
    parser.add_argument("--size", choices=("demo", "full"), default="demo", help="default: demo")
    parser.add_argument("--seed", type=Seed, default=7, help="default: 7")
    args = parser.parse_args()
    began = time.perf_counter()
    columns = {"phantoms": measure(phantom_cases(args.cases, args.size, args.seed), args.seed)}
    if "REAL_CT_DIR" in os.environ:
        columns["real CT"] = measure(real_cases(Path(os.environ["REAL_CT_DIR"])), args.seed)
    print(to_markdown(columns))
    checks = sum(len(warned) for found in columns.values() for warned in found.values())
    print(f"\n{checks} checks in {time.perf_counter() - began:.0f} s, phantoms included")


if __name__ == "__main__":
    main()
