"""Preparing a case: ours and nnU-Net's DefaultPreprocessor, side by side.

    python benchmarks/bench_prepare.py [--shape 60 320 320] [--spacing 2.5 0.75 0.75] [--rounds 3]

A CT in memory with its label, to voxels of 1.5 x 0.8 x 0.8 mm. Ours is `prepare_case`: image and
label resampled, the boxes of pancreas and tumor, and the signature that duplicates are found by,
which costs the same for each size; `ours_resampling` is image and label alone.
nnU-Net's crops, normalizes and resamples (image by splines of order 3, its default, or of order 1,
which is what ours is; label of order 1, its default) and lists places of the foreground. In turn;
medians of the process's seconds, and how many times as fast ours is, by round.
nnU-Net is in requirements-nnunet.txt.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.timing import interleaved, medians, peak_mib, times_as_fast
from data.case import LABEL_PANCREAS, LABEL_TUMOR, Case, Grid, Triple
from data.prepare.prepared_case import PrepareSettings, prepare_case
from data.prepare.resample import grid_weights, output_shape, resample_image, resample_mask
from utils.arguments import Count, real
from utils.scripts import ArgumentParser
from utils.settings import POSITIVE

SHAPE = (60, 320, 320)
SPACING = (2.5, 0.75, 0.75)
PREPARED = (1.5, 0.8, 0.8)
ORDERS = (3, 1)  # of nnU-Net's splines for the image
INSTALL = "python -m pip install -r requirements-nnunet.txt"


def make_case(shape: Sequence[int], spacing: Triple) -> Case:
    """A noisy body in air, with a pancreas of 90 mm and a tumor of 30 mm in its middle."""
    rng = np.random.default_rng(0)
    axes = [
        np.expand_dims((np.arange(n) - n // 2) * step, [a for a in range(3) if a != axis])
        for axis, (n, step) in enumerate(zip(shape, spacing, strict=True))
    ]

    def inside(z_mm: float, y_mm: float, x_mm: float) -> np.ndarray:
        radii = (z_mm, y_mm, x_mm)
        return np.asarray(sum((a / r) ** 2 for a, r in zip(axes, radii, strict=True)) < 1)

    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.7)
    body = inside(1e9, 0.35 * shape[1] * spacing[1], 0.45 * shape[2] * spacing[2])
    image = np.where(body, 40.0, -1000.0) + 30 * noise
    label = np.where(inside(25, 20, 45), LABEL_PANCREAS, 0).astype(np.uint8)
    label[inside(15, 15, 15)] = LABEL_TUMOR
    grid = Grid(
        (shape[2], shape[1], shape[0]),
        (spacing[2], spacing[1], spacing[0]),
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    return Case("case", "BENCH", image.clip(-1024, 3071).astype(np.int16), label, spacing, grid)


def resample(case: Case) -> tuple[int, ...]:
    """Ours without boxes and signature: image, pancreas and tumor; returns the shape."""
    assert case.label is not None
    shape = output_shape(case.image_hu.shape, case.spacing, PREPARED)
    weights = grid_weights(case.image_hu.shape, case.spacing, shape, PREPARED)
    for label in (LABEL_PANCREAS, LABEL_TUMOR):
        resample_mask(case.label >= label, weights)
    return tuple(resample_image(case.image_hu, weights).shape)


def nnunet(case: Case, order: int) -> Callable[[], tuple[int, ...]]:
    """nnU-Net's preprocessor on a case, for a plan as its planner writes it; returns the shape."""
    module = "nnunetv2.preprocessing.preprocessors.default_preprocessor"
    preprocessor = importlib.import_module(module).DefaultPreprocessor(verbose=False)
    handler = importlib.import_module("nnunetv2.utilities.plans_handling.plans_handler")
    plans = handler.PlansManager(make_plans(case, order))
    configuration = plans.get_configuration("3d_fullres")
    labels = {"background": 0, "pancreas": LABEL_PANCREAS, "tumor": LABEL_TUMOR}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1}
    assert case.label is not None
    image, label = case.image_hu[None].astype(np.float32), case.label[None].astype(np.int16)

    def prepare() -> tuple[int, ...]:
        found = preprocessor.run_case_npy(
            image.copy(), label.copy(), {"spacing": case.spacing}, plans, configuration, dataset
        )
        return tuple(found[0].shape[1:])

    return prepare


def make_plans(case: Case, order: int) -> dict[str, Any]:
    """What of a plan the preprocessor reads."""
    values = case.image_hu[case.label != 0].astype(float) if case.label is not None else np.ones(1)
    resample = "resample_data_or_seg_to_shape"
    separate = {"order_z": 0, "force_separate_z": None}
    intensity = {
        **{"mean": values.mean(), "std": values.std(), "median": np.median(values)},
        **{"min": values.min(), "max": values.max()},
        "percentile_00_5": np.percentile(values, 0.5),
        "percentile_99_5": np.percentile(values, 99.5),
    }
    configuration = {
        "data_identifier": "bench",
        "preprocessor_name": "DefaultPreprocessor",
        "architecture": {  # without it the plan is taken for one of an older version
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {},
            "_kw_requires_import": [],
        },
        "spacing": list(PREPARED),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": resample,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": order, **separate},
        "resampling_fn_seg": resample,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **separate},
    }
    return {
        "dataset_name": "bench",
        "plans_name": "bench",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensity},
        "configurations": {"3d_fullres": configuration},
    }


def measure(
    shape: Sequence[int] = SHAPE, spacing: Triple = SPACING, rounds: int = 3
) -> dict[str, Any]:
    """`WAY_s`, and how many times as fast as nnU-Net's ours is: `nnunet_order_N_ratio` and, of the
    resampling alone, `nnunet_order_N_to_resampling_ratio`; `peak_mib`. Under "not_run"
    what installs nnU-Net where it is missing.

    Raises ValueError where the two do not make the same grid.
    """
    case = make_case(shape, (spacing[0], spacing[1], spacing[2]))
    settings = PrepareSettings(PREPARED)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: prepare_case(case, settings).shape,
        "ours_resampling": lambda: resample(case),
    }
    found: dict[str, Any] = {}
    if find_spec("nnunetv2") is None:
        found["not_run"] = {f"nnunet_order_{order}": INSTALL for order in ORDERS}
    else:
        ways |= {f"nnunet_order_{order}": nnunet(case, order) for order in ORDERS}
    shapes: dict[str, tuple[int, ...]] = {}

    def kept(name: str) -> Callable[[], None]:
        return lambda: shapes.__setitem__(name, ways[name]())

    seconds = interleaved({name: kept(name) for name in ways}, rounds, time.process_time)
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the prepared shapes differ: {shapes}")
    found |= medians(seconds)
    for ours, text in (("ours", ""), ("ours_resampling", "_to_resampling")):
        ratios = times_as_fast(seconds, ours)
        found |= {
            f"{name}{text}_ratio": ratios[f"{name}_ratio"]
            for name in ways
            if name.startswith("nnunet")
        }
    return found | {"peak_mib": peak_mib()}


def main(argv: Sequence[str] | None = None) -> None:
    """Print seconds and ratios."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", type=Count, nargs=3, default=SHAPE, help="z y x, voxels")
    add("--spacing", type=real(POSITIVE), nargs=3, default=SPACING, help="z y x, mm")
    add("--rounds", type=Count, default=3)
    asked = parser.parse_args(argv)
    for name, value in measure(asked.shape, asked.spacing, asked.rounds).items():
        print(name, value)


if __name__ == "__main__":
    main()
