"""`Signature`: what is kept of a scan to recognize a copy of it, and nothing to look at.

Three signs, since copies differ in different ways (see `data.prepare.similarity`):

- `fingerprint`: 256 hashes of 27 voxels each, without their places: those of all local maxima of
  soft tissue that have the smallest hashes. Kept by every copy that still has some of the voxels.
- `thumbnail`: the whole volume as 16 x 16 x 16 voxels.
- `slabs`: 12 x 12 means over the body for every 8 mm of height, and the body's extent there.

No image can be rebuilt from them: a hash of 64 bits gives no position, and cells of about
25 mm show neither an organ's border nor a lesion.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from data.case import Triple
from data.prepare.resample import axis_weights, grid_weights, resample_float

FINGERPRINT_HU = (-100, 240)  # the networks' window (Sec. IV-A): what clamping leaves alone
FINGERPRINT_SIZE = 256
THUMBNAIL_SHAPE = (16, 16, 16)
GRAY_HU = (-100, 240)  # of thumbnail and slabs, 0 to 255: the same window
NOISE_MM, NOISE_HU = 4.0, (-200, 340)  # of the slabs: averaged so far in plane, within this range
SLAB_MM = 8.0
SLAB_CELLS = 12
MIN_TISSUE = 0.05  # of the fullest slice: emptier ends, as of padding, are no slabs
_VOXELS_AT_ONCE = 2_000_000  # bounds the memory of a fingerprint


@dataclass(frozen=True)
class Signature:
    """The signs of one scan.

    `fingerprint`: uint64 (up to 256,), sorted. `thumbnail`: uint8 (16, 16, 16). `slabs`: uint8
    (n, 12, 12), from the feet upward. `extents_mm`: float32 (n, 2), height and width of the body.
    """

    center: str
    case_id: str
    fingerprint: np.ndarray = field(repr=False)
    thumbnail: np.ndarray = field(repr=False)
    slabs: np.ndarray = field(repr=False)
    extents_mm: np.ndarray = field(repr=False)

    @property
    def name(self) -> str:
        """Center and case, for messages."""
        return f"{self.center}/{self.case_id}"


class Signed(Protocol):
    """A case that carries its signature."""

    @property
    def signature(self) -> Signature: ...


def sign_image(center: str, case_id: str, image_hu: np.ndarray, spacing: Triple) -> Signature:
    """The signature of an image, int16 HU (z, y, x), z to the head; `spacing` mm."""
    slabs, extents_mm = slabs_of(image_hu, spacing)
    return Signature(center, case_id, fingerprint(image_hu), thumbnail(image_hu), slabs, extents_mm)


def signatures_of(cases: Sequence[Signed]) -> list[Signature]:
    """The signatures of prepared cases, in their order: what a checkpoint keeps."""
    return [case.signature for case in cases]


def fingerprint(image_hu: np.ndarray) -> np.ndarray:
    """The smallest hashes of the image's local maxima, sorted, uint64 (up to 256,).

    A voxel above all of its 26 neighbors, all within `FINGERPRINT_HU`, is hashed by how far it is
    above each: those that share a face, an edge or a corner with it counted apart, without order.
    So neither turning nor mirroring, padding nor another offset of HU changes a hash, and a cropped
    copy has a part of the original's. The smallest ones are a fair sample of them (MinHash; Broder,
    1997).
    """
    step = max(1, _VOXELS_AT_ONCE // max(1, image_hu[0].size))
    parts = [
        _hash_maxima(image_hu[start : start + step + 2])
        for start in range(0, max(0, image_hu.shape[0] - 2), step)
    ]
    hashes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    return np.unique(hashes)[:FINGERPRINT_SIZE]


def _hash_maxima(part: np.ndarray) -> np.ndarray:
    """uint64 (n,): a hash of each local maximum that does not lie on the border of `part`."""
    if min(part.shape) < 3:
        return np.empty(0, np.uint64)
    low, high = FINGERPRINT_HU
    highest = part
    for axis in range(3):
        highest = _highest_of_three(highest, axis)
    middle = part[1:-1, 1:-1, 1:-1]
    found = np.zeros(part.shape, bool)
    found[1:-1, 1:-1, 1:-1] = (middle == highest) & (middle < high) & (middle > low)
    voxels, places = part.ravel(), np.flatnonzero(found)
    value = voxels[places].astype(np.int32)
    hashes = np.zeros(len(places), np.uint64)
    alone = np.ones(len(places), bool)
    steps = np.array([part.shape[1] * part.shape[2], part.shape[2], 1])
    for offset in itertools.product((-1, 0, 1), repeat=3):
        distance = sum(map(abs, offset))  # 1 face, 2 edge, 3 corner
        if distance == 0:
            continue
        neighbor = voxels[places + steps @ offset]
        # A plateau says nothing: constant regions are everywhere alike.
        alone &= (neighbor < value) & (neighbor > low)
        drop = np.where(alone, value - neighbor, 0)
        hashes += _mix(np.arange(high - low, dtype=np.uint64) + np.uint64(distance << 16))[drop]
    return _mix(hashes[alone])


def _highest_of_three(volume: np.ndarray, axis: int) -> np.ndarray:
    """The highest of each three neighbors along `axis`; 2 shorter."""
    n = volume.shape[axis]
    before, middle, after = (
        volume[(slice(None),) * axis + (slice(i, n - 2 + i),)] for i in range(3)
    )
    highest = np.maximum(before, middle)
    return np.maximum(highest, after, out=highest)


def _mix(values: np.ndarray) -> np.ndarray:
    """uint64 -> well-spread uint64, the same on every machine (splitmix64; Steele et al., 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def thumbnail(image_hu: np.ndarray) -> np.ndarray:
    """uint8 (16, 16, 16): the whole volume, `GRAY_HU` as 0 to 255."""
    steps = (n / m for n, m in zip(image_hu.shape, THUMBNAIL_SHAPE, strict=True))
    z, y, x = steps
    weights = grid_weights(image_hu.shape, (1.0, 1.0, 1.0), THUMBNAIL_SHAPE, (z, y, x))
    low, high = GRAY_HU
    clipped = np.clip(image_hu, low, high)
    clipped -= low
    return _to_gray(resample_float(clipped, weights))


def slabs_of(image_hu: np.ndarray, spacing: Triple) -> tuple[np.ndarray, np.ndarray]:
    """`Signature.slabs` and `extents_mm`: each slice in a box of its own, then means along z.

    A voxel weighs what it is above -100 HU, so that air and fat do not count and resampling keeps
    the sums; averaged over 4 mm in plane before, since of noise the part below -100 HU is lost. The
    box is two standard deviations of the weights to each side of their middle: an
    ellipse is filled exactly, and neither padding nor cropped air moves it. A slice does not know
    the others, so that a cropped stack keeps its rows.
    """
    cells = [max(1, round(NOISE_MM / step)) for step in spacing[1:]]
    tissue = np.zeros(len(image_hu))
    rows = np.zeros((len(image_hu), SLAB_CELLS**2), np.float32)
    extents = np.zeros((len(image_hu), 2), np.float32)
    for z, stored in enumerate(image_hu):
        plane = _smooth_above_low(stored, cells)
        by_y, by_x = plane.sum(axis=1), plane.sum(axis=0)
        tissue[z] = by_y.sum()
        if tissue[z]:
            along_y, height = _cells(by_y)
            along_x, width = _cells(by_x)
            rows[z] = (along_y @ plane @ along_x.T).ravel()
            extents[z] = height * spacing[1], width * spacing[2]
    inside = np.flatnonzero(tissue > MIN_TISSUE * tissue.max())
    if len(inside) == 0:
        return np.empty((0, SLAB_CELLS, SLAB_CELLS), np.uint8), np.empty((0, 2), np.float32)
    body = slice(inside[0], inside[-1] + 1)
    rows, extents = rows[body], extents[body]
    count = max(1, round(len(rows) * spacing[0] / SLAB_MM))
    weights = axis_weights(len(rows), spacing[0], count, SLAB_MM)
    return _to_gray(weights @ rows).reshape(-1, SLAB_CELLS, SLAB_CELLS), weights @ extents


def _smooth_above_low(plane: np.ndarray, cells: Sequence[int]) -> np.ndarray:
    """HU of a slice, averaged over so many voxels (y, x) -> float32 above the lower `GRAY_HU`.

    One slice at a time, so that no second volume is in memory.
    """
    import cv2

    low, high = GRAY_HU
    within = np.clip(plane, *NOISE_HU).astype(np.float32, order="C")
    smooth = cv2.blur(within, (cells[1], cells[0]), borderType=cv2.BORDER_REFLECT)
    np.clip(smooth, low, high, out=smooth)
    smooth -= low
    return smooth


def _cells(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """(12, n) float32: the mean over each cell of the box around a body, and the box's voxels.

    `weights`: of each of n places. What lies outside the image is air.
    """
    n = len(weights)
    start = np.arange(n)
    middle = float(np.average(start + 0.5, weights=weights))
    deviation = np.sqrt(np.average((start + 0.5 - middle) ** 2, weights=weights) + 1 / 12)
    edges = middle + 2 * deviation * np.linspace(-1, 1, SLAB_CELLS + 1)
    covered = np.minimum(edges[1:, None], start + 1) - np.maximum(edges[:-1, None], start)
    cells = np.clip(covered, 0, None) / (edges[1] - edges[0])
    return cells.astype(np.float32), float(4 * deviation)


def _to_gray(above_low: np.ndarray) -> np.ndarray:
    """HU above the lower end of `GRAY_HU` -> uint8."""
    return np.rint(np.clip(above_low * (255 / (GRAY_HU[1] - GRAY_HU[0])), 0, 255)).astype(np.uint8)


# name -> type on disk, and shape of one row where a sign has a variable number of rows
_SIGNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "fingerprint": ("<u8", ()),
    "thumbnail": ("u1", THUMBNAIL_SHAPE[1:]),
    "slabs": ("u1", (SLAB_CELLS, SLAB_CELLS)),
    "extents_mm": ("<f4", (2,)),
}


def to_text(signature: Signature) -> dict[str, str]:
    """The signs as base64, for a JSON file; center and case are told by the file."""
    return {
        name: base64.b64encode(getattr(signature, name).astype(kind).tobytes()).decode()
        for name, (kind, _) in _SIGNS.items()
    }


def from_text(center: str, case_id: str, text: Mapping[str, str]) -> Signature:
    """What `to_text` gave."""
    signs = {
        name: np.frombuffer(base64.b64decode(text[name]), kind).reshape(-1, *row)
        for name, (kind, row) in _SIGNS.items()
    }
    return Signature(center, case_id, **signs)


def to_plain(signatures: Sequence[Signature]) -> dict[str, Any]:
    """Tensors and plain types, for a checkpoint: the rows of all cases, one after the other."""
    content: dict[str, Any] = {"names": [[s.center, s.case_id] for s in signatures]}
    for name, (kind, row) in _SIGNS.items():
        arrays = [getattr(signature, name).astype(kind) for signature in signatures]
        joined = np.concatenate([np.empty((0, *row), kind), *arrays])
        if name == "fingerprint":
            joined = joined.view(np.int64)  # torch has little use for unsigned numbers
        content[name] = {
            "rows": [len(array) for array in arrays],
            "values": torch.from_numpy(joined.copy()),
        }
    return content


def from_plain(content: Mapping[str, Any]) -> list[Signature]:
    """What `to_plain` gave. Raises `ValueError` where a part is missing or does not fit."""
    try:
        signs = {}
        for name, (kind, row) in _SIGNS.items():
            values = content[name]["values"].cpu().numpy()
            values = values.view(np.uint64) if name == "fingerprint" else values.astype(kind)
            ends = np.cumsum([0, *content[name]["rows"]])
            if len(values) != ends[-1] or values.shape[1:] != row:
                raise ValueError(f"{name} has the shape {values.shape}")
            signs[name] = [values[a:b] for a, b in itertools.pairwise(ends)]
        names = [(str(center), str(case_id)) for center, case_id in content["names"]]
        return [
            Signature(*name, *arrays) for name, *arrays in zip(names, *signs.values(), strict=True)
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"signatures of the training scans cannot be read ({error}); train the run again"
        ) from error
