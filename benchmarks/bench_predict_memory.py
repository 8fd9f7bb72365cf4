"""Peak memory of predicting one large CT on a CPU, as predict.py does it: read, segment, write.

    OMP_NUM_THREADS=1 python benchmarks/bench_predict_memory.py [--width 32] [--size 800 512 512]

A painted body with noise is written to disk and predicted by four untrained networks of the
project's size. Each does its whole work; what it finds is taken from the brightness instead, so
that crops are of an organ's size. One input orientation in place of eight: mirroring takes time,
not memory. Lines: the most memory that the process has held so far (VmHWM), GiB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.intensity import HU_WINDOW
from data.readers.scans import list_scans
from data.splits import Split
from engine.checkpointing import save_checkpoint
from engine.predict_scans import Work, hash_checkpoints, predict_scans
from engine.scan_output import OutputOptions, Stamp
from engine.stage_predictors import StagePredictors
from methods import METHODS, Method, build_method, make_config
from utils.arguments import Count
from utils.scripts import ArgumentParser
from utils.settings import to_plain
from utils.stages import STAGES

SPACING_MM = (1.0, 0.98, 0.98)  # (z, y, x): a field of view of 502 mm, 80 cm long
FAT_HU, SOFT_HU, PANCREAS_HU, TUMOR_HU, NOISE_HU = -100, 50, 150, 225, 10
CUT_HU = {"pancreas": 120.0, "tumor": 190.0}
PANCREAS_MM, TUMOR_MM = (20.0, 40.0, 75.0), (12.0, 14.0, 16.0)  # half axes
NAME = "bench"


class Brightness(Method):
    """The baseline's network at work, the target where the image is bright."""

    idle, blind = False, False

    def predict(self, image: Tensor) -> Tensor:
        if not self.idle:
            super().predict(image)
        if self.blind:
            return torch.full_like(image, 0.02)
        hu = image * (HU_WINDOW[1] - HU_WINDOW[0]) + HU_WINDOW[0]
        return torch.where(hu > CUT_HU[self.stage.target], 0.95, 0.02)


def write_body(path: Path, size: Sequence[int]) -> None:
    """A body of `size` voxels (z, y, x) as an uncompressed NIfTI, slice by slice."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(tuple(size[::-1]))
    header.set_sform(np.diag([*SPACING_MM[::-1], 1.0]) * [-1, -1, 1, 1], 1)
    header["pixdim"][1:4] = SPACING_MM[::-1]
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    rng = np.random.default_rng(0)
    y, x = (
        (np.arange(n) - n / 2)[shape] * mm
        for n, shape, mm in zip(
            size[1:], ((slice(None), None), (None, slice(None))), SPACING_MM[1:], strict=True
        )
    )
    half = [n * mm / 2 for n, mm in zip(size, SPACING_MM, strict=True)]
    inside = (y / half[1]) ** 2 + (x / half[2]) ** 2
    plane = np.where(inside < 0.8, FAT_HU, -1000) + (SOFT_HU - FAT_HU) * (inside < 0.6)
    with path.open("wb") as stream:
        stream.write(header.binaryblock + bytes(4))
        for number in range(size[0]):
            z = number * SPACING_MM[0] - half[0]
            image = plane + rng.normal(0, NOISE_HU, plane.shape)
            for axes, hu in ((PANCREAS_MM, PANCREAS_HU), (TUMOR_MM, TUMOR_HU)):
                organ = (z / axes[0]) ** 2 + (y / axes[1]) ** 2 + (x / axes[2]) ** 2 <= 1
                image[organ] = hu
            stream.write(np.rint(image).astype("<i2").tobytes())


def write_networks(folder: Path, width: int) -> dict[str, Path]:
    """A checkpoint of each stage with an untrained network."""
    files = {}
    for name, stage in STAGES.items():
        config = make_config(replace(stage, mirror_axes=()), NAME, width=width)
        split = Split(("A", "B"), "C", train_cases=(), test_cases=())
        torch.manual_seed(0)
        content = {"method": build_method(config).state_dict(), "config": to_plain(config)}
        content |= {"split": to_plain(split), "split_hash": "", "signatures": {}, "step": 0}
        files[name] = folder / f"{name}.pt"
        save_checkpoint(files[name], content)
    return files


def main() -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--width", type=Count, default=32)
    add("--size", type=Count, nargs=3, default=(800, 512, 512), help="voxels (z, y, x)")
    add("--idle", action="store_true", help="networks do no work: the memory of all else")
    add("--blind", action="store_true", help="nothing is found: every stage gets the whole volume")
    add("--probabilities", action="store_true", help="write these too")
    args = parser.parse_args()
    METHODS[NAME] = Brightness
    Brightness.idle, Brightness.blind = args.idle, args.blind
    started = time.monotonic()

    def say(text: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{time.monotonic() - started:6.0f} s  {peak:5.2f} GiB  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_body(folder / "body.nii", args.size)
        files = write_networks(folder, args.width)
        say(f"{args.size} voxels and networks of width {args.width} are on disk")
        work = Work(
            out=folder / "out",
            predictors=StagePredictors(files, torch.device("cpu")),
            stamp=Stamp(hash_checkpoints(files)),
            output=OutputOptions(probabilities=args.probabilities),
            say=say,
        )
        scans, _ = list_scans(folder / "body.nii")
        failures = predict_scans(work, scans)
        say(f"all is written; failures: {failures or 'none'}")


if __name__ == "__main__":
    main()
