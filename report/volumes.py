"""A case as a page carries it: cropped to the organs, small, and where to look first."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.case import LABEL_PANCREAS, LABEL_TUMOR, Triple
from data.roi import Box, bounding_box, crop
from report.contents import TUMOR, CaseImages, Layer

MARGIN_MM = 20.0
MAX_VOXELS = 3_000_000  # of a crop; about 2.5 MB of the page
# Eight bits hold 256 steps of 2 HU: the soft tissue, with air and bone at the ends.
HU_START, HU_STEP = -192, 2
LABEL_BITS = 2  # bit 0: pancreas of the label, bit 1: tumor of the label, then a bit for each layer
MAX_LAYERS = 8 - LABEL_BITS

Voxel = tuple[int, int, int]  # (z, y, x)


@dataclass(frozen=True)
class Focus:
    """A place that one click goes to; `at`: voxel (z, y, x) of the whole volume."""

    name: str
    at: Voxel


def find_foci(images: CaseImages) -> list[Focus]:
    """Where to look, the first being where the page opens: the tumor of the label, of the last
    result that has one, then the pancreas of the first of these; else the middle of the volume.
    """
    tumors, organs = [], []
    if images.label is not None:
        tumors.append(("tumor in the label", images.label == LABEL_TUMOR))
        organs.append(("pancreas in the label", images.label >= LABEL_PANCREAS))
    for layer in reversed(images.layers):
        place = tumors if layer.target == TUMOR else organs
        place.append((f"{layer.target} found", layer.mask))
    found: dict[str, Voxel] = {}
    for name, mask in tumors:
        if name not in found and mask.any():
            found[name] = middle_voxel(mask)
    organ = next((item for item in organs if item[1].any()), None)
    if organ is not None:
        found[organ[0]] = middle_voxel(organ[1])
    foci = [Focus(name, at) for name, at in found.items()]
    z, y, x = (n // 2 for n in images.image_hu.shape)
    return foci or [Focus("middle of the scan", (z, y, x))]


def middle_voxel(mask: np.ndarray) -> Voxel:
    """In the slice where a mask (z, y, x) is largest, its voxel nearest to its center there."""
    areas = mask.sum(axis=(1, 2))
    largest = np.flatnonzero(areas == areas.max())
    z = int(largest[len(largest) // 2])
    inside = np.argwhere(mask[z])
    distance = ((inside - inside.mean(axis=0)) ** 2).sum(axis=1)
    y, x = (int(n) for n in inside[int(np.argmin(distance))])
    return z, y, x


def choose_box(images: CaseImages, focus: Focus, max_voxels: int = MAX_VOXELS) -> Box:
    """What the page shows: the label, the last result of each target, a margin of 20 mm.

    Where that is more than `max_voxels`, its sides shrink alike around the focus.
    """
    shape = images.image_hu.shape
    last = {layer.target: layer.mask for layer in images.layers}
    masks = [*last.values(), *([] if images.label is None else [images.label > 0])]
    boxes = [box for mask in masks if (box := bounding_box(mask)) is not None]
    boxes.append(Box(focus.at, tuple(n + 1 for n in focus.at)))  # type: ignore[arg-type]
    margins = [round(MARGIN_MM / mm) for mm in images.spacing]
    if len(boxes) == 1:  # nothing was found: the middle of the scan
        margins = [4 * margin for margin in margins]
    start = [max(min(b.start[a] for b in boxes) - margins[a], 0) for a in range(3)]
    stop = [min(max(b.stop[a] for b in boxes) + margins[a], shape[a]) for a in range(3)]
    sides = [b - a for a, b in zip(start, stop, strict=True)]
    shrink = min((max_voxels / float(np.prod(sides))) ** (1 / 3), 1.0)
    for axis in range(3):
        side = max(int(sides[axis] * shrink), 1)
        first = min(max(focus.at[axis] - side // 2, start[axis]), stop[axis] - side)
        start[axis], stop[axis] = first, first + side
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def encode_image(image_hu: np.ndarray, spacing: Triple) -> str:
    """A crop (z, y, x) in HU -> NIfTI of 8 bits with its slope, compressed, base64.

    Steps of 2 HU from -192 to 318; what lies beyond takes the nearest of these two.
    """
    steps = np.rint((image_hu.astype(np.float32) - HU_START) / HU_STEP)
    return _encode(np.clip(steps, 0, 255).astype(np.uint8), spacing, (HU_STEP, HU_START))


def encode_masks(label: np.ndarray | None, layers: Sequence[Layer], box: Box, step: Triple) -> str:
    """The label and the layers in `box`, a bit each (see `LABEL_BITS`) -> NIfTI, base64.

    Raises ValueError for more than `MAX_LAYERS` layers.
    """
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"{len(layers)} layers; a page shows {MAX_LAYERS} of a case at most")
    bits = np.zeros(box.shape, np.uint8)
    if label is not None:
        part = crop(label, box)
        bits |= (part >= LABEL_PANCREAS).astype(np.uint8)
        bits |= (part == LABEL_TUMOR).astype(np.uint8) << 1
    for number, layer in enumerate(layers):
        bits |= crop(layer.mask, box).astype(np.uint8) << (LABEL_BITS + number)
    return _encode(bits, step, (1, 0))


def _encode(array: np.ndarray, spacing: Triple, scaling: tuple[float, float]) -> str:
    """The viewer wants x right, y front, z head: both canonical in-plane axes are mirrored."""
    import nibabel as nib

    mirrored = np.ascontiguousarray(array[:, ::-1, ::-1].transpose(2, 1, 0))
    file = nib.Nifti1Image(mirrored, np.diag([*spacing[::-1], 1.0]))
    file.header.set_xyzt_units("mm")
    content = bytearray(file.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    header["scl_slope"], header["scl_inter"] = scaling  # nibabel itself resets them
    content[:348] = header.binaryblock
    return base64.b64encode(gzip.compress(bytes(content), 9, mtime=0)).decode("ascii")
