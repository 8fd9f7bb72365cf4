"""Preparing a tumor-coarse sample: with libraries (scipy, scikit-image) and ours, side by side.

    python benchmarks/bench_sample.py [--shape 64 224 224] [--device cuda] [--rounds 3]

Both rotate image and label by the same three angles, make the signed distance map (Eq. 4) and the
normal tissue around the tumor that Eq. 8 contrasts; ours also mirrors, adds noise and chooses the
anchors. Ours against three peers: `usual`, three rotations and a dilation by the whole box;
`separable`, the same with the box's dilation done axis by axis; and `best`, which also maps the
image once. In turn, medians; on one CPU thread the process's own seconds. Where both compute the
same thing the results are compared, and a difference is an error. The most memory of either way is
that of a process of its own. scikit-image is in requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.morphology import dilation
from skimage.segmentation import find_boundaries
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.timing import interleaved, medians, peak_mib, times_as_fast
from data.augment import AugmentSettings, apply_affine, augment, rotation_matrix
from data.targets.anchors import DILATION, anchor_masks, dilate
from data.targets.sdm import signed_distance, signed_distance_map
from data.views import Convolver, random_views
from utils.arguments import Count, real
from utils.scripts import ArgumentParser
from utils.settings import POSITIVE

SHAPE = (64, 224, 224)  # of the crop, voxels: the coarse tumor stage's (Table VI)
SPACING = (1.5, 0.8, 0.8)  # mm (z, y, x), the resampled grid (Sec. IV-A)
DIAMETER_MM = 35.0
DEGREES = (11.0, -7.0, 9.0)
KERNELS = (1, 3, 5, 7)  # sides of Eq. 1's random convolutions
ALWAYS = AugmentSettings(rotation_probability=1, mirror_probability=1, noise_probability=1)
ROTATION_TOLERANCE = 1e-4  # of an image in [0, 1]: float32 coordinates against scipy's float64
VIEW_TOLERANCE = 1e-6  # times the sum of the weights' magnitudes
Check = tuple[str, float, float]  # what, the largest difference, the largest allowed
Ways = dict[str, Callable[[], object]]
PEERS = ("usual", "separable", "best")


def make_crop(shape: Sequence[int], diameter_mm: float) -> tuple[np.ndarray, np.ndarray]:
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


def rotate_once(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The three rotations as one affine map."""
    matrix = turn_in_voxels().numpy()
    center = (np.array(image.shape) - 1) / 2
    offset = center - matrix @ center
    return (
        ndimage.affine_transform(image, matrix, offset, order=1, mode="grid-constant"),
        ndimage.affine_transform(label, matrix, offset, order=0, mode="grid-constant"),
    )


def turn_in_voxels() -> Tensor:
    """The rotation by `DEGREES`, rigid in mm, as a matrix on voxels (z, y, x)."""
    mm = torch.tensor(SPACING, dtype=torch.float64)
    return rotation_matrix(DEGREES) * mm / mm[:, None]


def dilate_usual(mask: np.ndarray) -> np.ndarray:
    """By the whole box at once."""
    return np.asarray(dilation(mask, np.ones(DILATION, bool)))


def dilate_separable(mask: np.ndarray) -> np.ndarray:
    """Axis by axis, as scipy's filter does it; of an even side the longer half is in front."""
    origin = [-1 if side % 2 == 0 else 0 for side in DILATION]
    grown = ndimage.maximum_filter(
        mask.view(np.uint8), size=DILATION, mode="constant", origin=origin
    )
    return grown.view(bool)


def list_steps(image: np.ndarray, label: np.ndarray, device: torch.device) -> dict[str, Ways]:
    """Every step of the sample by every way; a peer that is not named works as the one before."""
    image_t = torch.from_numpy(image)[None, None].to(device)
    label_t = torch.from_numpy(label)[None, None].to(device)
    mask, mask_t, rng = label == 2, label_t == 2, torch.Generator().manual_seed(0)
    steps: dict[str, Ways] = {
        "rotation": {
            "usual": lambda: rotate_usual(image, label),
            "best": lambda: rotate_once(image, label),
            "ours": lambda: augment(image_t, label_t, SPACING, ALWAYS, rng),
        },
        "distance_map": {
            "usual": lambda: signed_distance_usual(mask),
            "ours": lambda: signed_distance_map(mask_t),
        },
        "tissue": {
            "usual": lambda: dilate_usual(mask) & ~mask,
            "separable": lambda: dilate_separable(mask) & ~mask,
            "ours": lambda: anchor_masks(mask_t),
        },
    }
    return {name: finish_ours(ways, device) for name, ways in steps.items()}


def finish_ours(ways: Ways, device: torch.device) -> Ways:
    """Ours ends when the device has: on a GPU calls return before that."""
    if device.type != "cuda":
        return ways

    def run(way: Callable[[], object]) -> None:
        way()
        torch.cuda.synchronize(device)

    return {name: partial(run, way) for name, way in ways.items()}


def list_views(image: Tensor) -> dict[str, Ways]:
    """Eq. 1's random convolution by kernel size: `F.conv3d` in float32, and ours."""
    found: dict[str, Ways] = {}
    for size in KERNELS:
        weight = torch.randn(size, size, size)
        kernel = weight[None, None].to(image.device)
        ways: Ways = {
            "conv3d": partial(F.conv3d, image, kernel, padding="same"),
            "ours": partial(convolve_once, image[0, 0], weight),
        }
        found[f"kernel_{size}"] = finish_ours(ways, image.device)
    return found


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
    dilated = dilate(mask_t).cpu().numpy()
    around, apart = dilated != dilate_usual(mask), dilated != dilate_separable(mask)
    turned = apply_affine(image_t, label_t, turn_in_voxels())[0][0, 0].cpu().numpy()
    turned -= rotate_once(image, label)[0]
    weight = torch.randn(7, 7, 7)
    view = Convolver(image_t[0, 0]).convolve(weight).cpu().numpy()
    exact = ndimage.correlate(image.astype(float), weight.double().numpy(), mode="constant")
    return [
        ("signed distance in voxels against scipy: exactly equal", float(distance.max()), 0.0),
        ("signed distance map against scipy", float(np.abs(normalized).max()), 2e-7),
        ("dilated voxels that differ from skimage's", float(around.sum()), 0.0),
        ("dilated voxels that differ from scipy's", float(apart.sum()), 0.0),
        (
            "rotated image against one affine_transform of scipy",
            float(np.abs(turned).max()),
            ROTATION_TOLERANCE,
        ),
        (
            "7 x 7 x 7 convolution against scipy in float64",
            float(np.abs(view - exact).max()),
            VIEW_TOLERANCE * float(weight.abs().sum()),
        ),
    ]


def run_sample(way: str, shape: Sequence[int], diameter_mm: float) -> float:
    """The most memory of a new process that prepares one sample, MiB."""
    torch.set_num_threads(1)
    for ways in list_steps(*make_crop(shape, diameter_mm), torch.device("cpu")).values():
        ways.get(way, ways["usual"])()
    return peak_mib()


def measure_peaks(shape: Sequence[int], diameter_mm: float) -> dict[str, float]:
    """`WAY_peak_mib` of `run_sample`, Python and its libraries included."""
    found = {}
    for way in ("usual", "ours"):
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            found[f"{way}_peak_mib"] = process.submit(
                run_sample, way, tuple(shape), diameter_mm
            ).result()
    return found


def sum_up(steps: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The whole sample, from the medians of its steps: `PEER_s`, `ours_s` and `PEER_ratio`."""
    total = dict.fromkeys((*PEERS, "ours"), 0.0)
    for seconds in steps.values():
        known = seconds["usual_s"]
        for peer in PEERS:
            known = seconds.get(f"{peer}_s", known)
            total[peer] += known
        total["ours"] += seconds["ours_s"]
    found = {f"{way}_s": seconds for way, seconds in total.items()}
    return found | {f"{peer}_ratio": total[peer] / total["ours"] for peer in PEERS}


def measure(
    shape: Sequence[int] = SHAPE,
    diameter_mm: float = DIAMETER_MM,
    device: str = "cpu",
    threads: int = 1,
    rounds: int = 3,
) -> dict[str, Any]:
    """ "steps" and "views" by name, and the whole "sample": `WAY_s`, and `PEER_ratio`, how many
    times as fast ours is; "differences" in the checks' units; `WAY_peak_mib`.

    Raises ValueError where ours is not the libraries' result.
    """
    peaks = measure_peaks(shape, diameter_mm)  # first: a child's count starts at its parent's size
    torch.set_num_threads(threads)
    on = torch.device(device)
    clock = time.process_time if on.type == "cpu" and threads == 1 else time.perf_counter
    image, label = make_crop(shape, diameter_mm)
    checks = compare(image, label, on)
    wrong = [f"{what}: {found:.2e}, not {most:.0e}" for what, found, most in checks if found > most]
    if wrong:
        raise ValueError("; ".join(wrong))
    image_t = torch.from_numpy(image)[None, None].to(on)
    seconds = {
        kind: {name: interleaved(ways, rounds, clock) for name, ways in list_.items()}
        for kind, list_ in (
            ("steps", list_steps(image, label, on)),
            ("views", list_views(image_t)),
        )
    }
    found: dict[str, Any] = peaks | {
        kind: {name: medians(taken) | times_as_fast(taken, "ours") for name, taken in each.items()}
        for kind, each in seconds.items()
    }
    rng = torch.Generator().manual_seed(0)
    pairs: Ways = {"pair": lambda: [random_views(image_t, rng, count=2) for _ in range(10)]}
    taken = interleaved(finish_ours(pairs, on), rounds, clock)["pair"]
    found["views"]["two_views"] = {"ours_s": median(taken) / 10}
    found["sample"] = sum_up(found["steps"])
    found["differences"] = {what: difference for what, difference, _ in checks}
    return found | {"peak_mib": peak_mib()}


def main(argv: Sequence[str] | None = None) -> None:
    """Print seconds and ratios of every step and of the whole, the differences, and the memory."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", type=Count, nargs=3, default=SHAPE, help="z y x")
    add("--diameter-mm", type=real(POSITIVE), default=DIAMETER_MM, help="of the tumor")
    add("--device", default="cpu", help="where ours runs: cpu, cuda")
    add("--threads", type=Count, default=1, help="CPU threads of torch")
    add("--rounds", type=Count, default=3)
    asked = parser.parse_args(argv)
    found = measure(asked.shape, asked.diameter_mm, asked.device, asked.threads, asked.rounds)
    print(f"{tuple(asked.shape)} voxels, ours on {asked.device}, torch {torch.__version__}")
    print("milliseconds, and how many times as fast ours is")
    for name, values in (found["steps"] | {"sample": found["sample"]} | found["views"]).items():
        print(f"{name:14} {describe(values)}")
    for what, difference in found["differences"].items():
        print(f"{what:58} {difference:.2e}")
    print(f"peak MiB: usual {found['usual_peak_mib']:.0f}, ours {found['ours_peak_mib']:.0f}, "
          f"this benchmark {found['peak_mib']:.0f}")  # fmt: skip


def describe(values: Mapping[str, float]) -> str:
    """`WAY milliseconds (ratio)` of each way."""
    texts = []
    for name, seconds in values.items():
        way, _, unit = name.rpartition("_")
        if unit == "s":
            ratio = values.get(f"{way}_ratio")
            texts.append(f"{way} {1000 * seconds:.1f}" + (f" ({ratio:.1f} x)" if ratio else ""))
    return "  ".join(texts)


if __name__ == "__main__":
    main()
