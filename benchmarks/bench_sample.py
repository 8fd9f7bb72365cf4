"""Preparing a tumor-coarse sample: the usual way (scipy, scikit-image) and ours, side by side.

Both rotate image and label by the same three angles, make the signed distance map (Eq. 4) and the
normal tissue around the tumor that Eq. 8 contrasts; ours also mirrors, adds noise and chooses the
anchors. One CPU thread unless told otherwise. Where both compute the same thing the results are
compared, and a difference ends the run with status 1. scikit-image is in requirements-dev.txt.

    python benchmarks/bench_sample.py
    python benchmarks/bench_sample.py --device cuda
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.morphology import dilation
from skimage.segmentation import find_boundaries
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.augment import AugmentSettings, apply_affine, augment, rotation_matrix
from data.targets.anchors import DILATION, anchor_masks, dilate
from data.targets.sdm import signed_distance, signed_distance_map
from data.views import Convolver, random_views
from utils.arguments import Count, real
from utils.scripts import ArgumentParser
from utils.settings import POSITIVE

SPACING = (1.5, 0.8, 0.8)  # mm (z, y, x), the resampled grid (Sec. IV-A)
DEGREES = (11.0, -7.0, 9.0)
ALWAYS = AugmentSettings(rotation_probability=1, mirror_probability=1, noise_probability=1)
ROTATION_TOLERANCE = 1e-4  # of an image in [0, 1]: float32 coordinates against scipy's float64
VIEW_TOLERANCE = 1e-6  # times the sum of the weights' magnitudes
Check = tuple[str, float, float]  # what, the largest difference, the largest allowed


@dataclass(frozen=True)
class Row:
    """One step: what it is, and the median seconds of both ways."""

    name: str
    usual_s: float
    ours_s: float


def make_crop(shape: tuple[int, int, int], diameter_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """An image in [0, 1], and a label with a pancreas (1) and a lumpy tumor (2) inside."""
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.random(shape, dtype=np.float32), 1)
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    offsets = [(a - 0.47 * n) * mm for a, n, mm in zip(axes, shape, SPACING, strict=True)]
    radius = np.sqrt(sum(offset**2 for offset in offsets))
    lumps = ndimage.gaussian_filter(rng.standard_normal(shape), (3, 6, 6))
    tumor = radius * (1 + 0.1 * lumps / lumps.std()) < diameter_mm / 2
    pancreas = sum(
        (o / (0.35 * n * mm)) ** 2 for o, n, mm in zip(offsets, shape, SPACING, strict=True)
    )
    label = np.where(tumor, 2, pancreas < 1).astype(np.uint8)
    return (image - image.min()) / np.ptp(image), label


def rotate_usual(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three rotations one after the other, each interpolating what the last one left."""
    for degrees, axes in zip(DEGREES, ((1, 2), (0, 2), (0, 1)), strict=True):
        image = ndimage.rotate(image, degrees, axes, reshape=False, order=1)
        label = ndimage.rotate(label, degrees, axes, reshape=False, order=0)
    return image, label


def signed_distance_usual(mask: np.ndarray, *, normalized: bool = True) -> np.ndarray:
    """Two distance transforms, the inner boundary set to zero."""
    outside, inside = ndimage.distance_transform_edt(~mask), ndimage.distance_transform_edt(mask)
    largest = (outside.max(), inside.max()) if normalized else (1, 1)
    distance = outside / largest[0] - inside / largest[1]
    distance[find_boundaries(mask, mode="inner")] = 0
    return np.asarray(distance, np.float32)


def dilate_usual(mask: np.ndarray) -> np.ndarray:
    return np.asarray(dilation(mask, np.ones(DILATION, bool)))


def median_seconds(
    step: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 1
) -> float:
    """Median time of `repeats` runs, after those that warm up."""
    seconds = []
    for run in range(-warm_up, repeats):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if run >= 0:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def time_steps(
    image: np.ndarray, label: np.ndarray, device: torch.device, repeats: int
) -> list[Row]:
    """Every step of the sample, the usual way and ours."""
    image_t = torch.from_numpy(image)[None, None].to(device)
    label_t = torch.from_numpy(label)[None, None].to(device)
    mask, mask_t, rng = label == 2, label_t == 2, torch.Generator().manual_seed(0)
    steps: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        (
            "rotation of image and label (ours: + mirroring, noise)",
            lambda: rotate_usual(image, label),
            lambda: augment(image_t, label_t, SPACING, ALWAYS, rng),
        ),
        (
            "signed distance map (Eq. 4)",
            lambda: signed_distance_usual(mask),
            lambda: signed_distance_map(mask_t),
        ),
        (
            "tissue around the tumor (ours: + anchors of Eq. 8)",
            lambda: dilate_usual(mask) & ~mask,
            lambda: anchor_masks(mask_t),
        ),
    ]
    cpu = torch.device("cpu")
    return [
        Row(
            name,
            median_seconds(usual, cpu, max(repeats // 3, 1), warm_up=0),
            median_seconds(ours, device, repeats),
        )
        for name, usual, ours in steps
    ]


def time_views(image: Tensor, repeats: int) -> list[Row]:
    """Eq. 1's random convolution: `F.conv3d` in float32, and ours, by kernel size."""
    rows = []
    for size in (1, 3, 5, 7):
        weight = torch.randn(size, size, size)
        kernel = weight[None, None].to(image.device)
        usual = partial(F.conv3d, image, kernel, padding="same")
        ours = partial(convolve_once, image[0, 0], weight)
        rows.append(
            Row(
                f"random convolution {size} x {size} x {size} (Eq. 1)",
                median_seconds(usual, image.device, repeats),
                median_seconds(ours, image.device, repeats),
            )
        )
    return rows


def convolve_once(volume: Tensor, weight: Tensor) -> Tensor:
    """Ours, the volume's own transform included."""
    return Convolver(volume).convolve(weight)


def compare(image: np.ndarray, label: np.ndarray, device: torch.device) -> list[Check]:
    """Ours against the libraries' results, where both compute the same thing."""
    image_t = torch.from_numpy(image)[None, None].to(device)
    label_t = torch.from_numpy(label)[None, None].to(device)
    mask, mask_t = label == 2, label_t[0, 0] == 2
    distance = np.abs(
        signed_distance(mask_t).cpu().numpy() - signed_distance_usual(mask, normalized=False)
    )
    normalized = signed_distance_map(mask_t).cpu().numpy() - signed_distance_usual(mask)
    around = dilate(mask_t).cpu().numpy() != dilate_usual(mask)
    mm = torch.tensor(SPACING, dtype=torch.float64)
    matrix = rotation_matrix(DEGREES) * mm / mm[:, None]
    center = (np.array(image.shape) - 1) / 2
    once = ndimage.affine_transform(
        image, matrix.numpy(), center - matrix.numpy() @ center, order=1, mode="grid-constant"
    )
    turned = apply_affine(image_t, label_t, matrix)[0][0, 0].cpu().numpy() - once
    weight = torch.randn(7, 7, 7)
    view = Convolver(image_t[0, 0]).convolve(weight).cpu().double()
    exact = F.conv3d(image_t.cpu().double(), weight[None, None].double(), padding="same")[0, 0]
    return [
        ("signed distance in voxels against scipy: exactly equal", float(distance.max()), 0.0),
        ("signed distance map against scipy", float(np.abs(normalized).max()), 2e-7),
        ("dilated voxels that differ from skimage's", float(around.sum()), 0.0),
        (
            "rotated image against one affine_transform of scipy",
            float(np.abs(turned).max()),
            ROTATION_TOLERANCE,
        ),
        (
            "7 x 7 x 7 convolution against conv3d in float64",
            float((view - exact).abs().max()),
            VIEW_TOLERANCE * float(weight.abs().sum()),
        ),
    ]


def print_rows(title: str, rows: list[Row], total: str | None = None) -> None:
    """The rows as a table, with their sum."""
    print(f"\n{title}\n{'':58}{'usual s':>9}{'ours s':>9}{'times':>7}")
    if total is not None:
        rows = [*rows, Row(total, sum(r.usual_s for r in rows), sum(r.ours_s for r in rows))]
    for row in rows:
        print(f"{row.name:58}{row.usual_s:9.3f}{row.ours_s:9.4f}{row.usual_s / row.ours_s:7.1f}")


def main() -> int:
    """Print both tables and the comparison; 1 where results differ."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", type=Count, nargs=3, default=(64, 224, 224), help="z y x")
    parser.add_argument("--diameter-mm", type=real(POSITIVE), default=35.0, help="of the tumor")
    parser.add_argument("--device", default="cpu", help="where ours runs: cpu, cuda")
    parser.add_argument("--threads", type=Count, default=1, help="CPU threads of torch")
    parser.add_argument("--repeats", type=Count, default=9, help="of ours; the usual way a third")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    z, y, x = options.shape
    image, label = make_crop((z, y, x), options.diameter_mm)
    print(
        f"crop {z} x {y} x {x}, tumor {int((label == 2).sum())} voxels; "
        f"ours on {device}, {options.threads} CPU thread(s); torch {torch.__version__}"
    )
    checks = compare(image, label, device)
    print_rows(
        "One training sample", time_steps(image, label, device, options.repeats), "the whole sample"
    )
    image_t = torch.from_numpy(image)[None, None].to(device)
    print_rows("Views, float32 (usual: F.conv3d)", time_views(image_t, options.repeats))
    rng = torch.Generator().manual_seed(0)
    pairs = median_seconds(
        lambda: [random_views(image_t, rng, count=2) for _ in range(10)], device, 3
    )
    print(f"{'two whole views of a sample, mean over kernel sizes':67}{pairs / 10:9.4f}")
    print("\nLargest differences")
    for what, found, allowed in checks:
        verdict = "ok" if found <= allowed else "DIFFERS"
        print(f"{what:58}{found:12.2e} (allowed {allowed:.0e}) {verdict}")
    return int(any(found > allowed for _, found, allowed in checks))


if __name__ == "__main__":
    sys.exit(main())
