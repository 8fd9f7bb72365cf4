"""What stands in for patients and trained weights: a painted body, and networks that find in it.

The networks do their whole work; what they find is taken from the brightness, so that the crops of
the later stages are of an organ's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from data.intensity import HU_WINDOW
from data.splits import Split
from engine.checkpointing import save_checkpoint
from methods import Method, build_method, make_config
from utils.settings import to_plain
from utils.stages import STAGES, Stage

SPACING_MM = (1.0, 0.98, 0.98)  # (z, y, x): a field of view of 502 mm, 80 cm long
FAT_HU, SOFT_HU, PANCREAS_HU, TUMOR_HU, NOISE_HU = -100, 50, 150, 225, 10
CUT_HU = {"pancreas": 120.0, "tumor": 190.0}
PANCREAS_MM, TUMOR_MM = (20.0, 40.0, 75.0), (12.0, 14.0, 16.0)  # half axes
NAME = "bench"
WITHOUT_MIRRORS = {name: replace(stage, mirror_axes=()) for name, stage in STAGES.items()}


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


def write_networks(
    folder: Path, width: int, stages: Mapping[str, Stage] = WITHOUT_MIRRORS
) -> dict[str, Path]:
    """A checkpoint of each stage with an untrained network of the method `NAME`."""
    files = {}
    for name, stage in stages.items():
        config = make_config(stage, NAME, width=width)
        split = Split(("A", "B"), "C", train_cases=(), test_cases=())
        torch.manual_seed(0)
        content = {"method": build_method(config).state_dict(), "config": to_plain(config)}
        content |= {"split": to_plain(split), "split_hash": "", "signatures": {}, "step": 0}
        files[name] = folder / f"{name}.pt"
        save_checkpoint(files[name], content)
    return files
