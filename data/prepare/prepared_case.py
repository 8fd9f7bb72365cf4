"""`PreparedCase`: a case on the grid that networks see, and the way back to its own grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.case import LABEL_TUMOR, Case, DataError, Grid, Triple
from data.prepare.resample import (
    Part,
    Shape,
    Weights,
    grid_weights,
    output_shape,
    resample_image,
    resample_mask,
    resample_parts,
)
from data.prepare.signature import Signature, from_text, sign_image, to_text
from data.readers.files import CaseFiles
from data.roi import Box, bounding_box
from utils.errors import first_line

IMAGE, LABEL = "image.npy", "label.npy"


@dataclass(frozen=True)
class PrepareSettings:
    """`spacing`: mm, (z, y, x), of the prepared grid; None keeps each case's own.

    Raises `ValueError` where it is not three numbers above 0.
    """

    spacing: Triple | None = (1.5, 0.8, 0.8)

    def __post_init__(self) -> None:
        if self.spacing is None:
            return
        if len(self.spacing) != 3 or not all(0 < step < np.inf for step in self.spacing):
            raise ValueError(f"spacing must be three numbers above 0 (z, y, x), not {self.spacing}")
        z, y, x = (float(step) for step in self.spacing)  # 1 and 1.0 share a cache
        object.__setattr__(self, "spacing", (z, y, x))


@dataclass(frozen=True)
class PreparedCase:
    """One case on the prepared grid; arrays are memory maps and are not pickled with it.

    `spacing` mm, (z, y, x). `original_shape`, `original_spacing`: of the canonical arrays before
    resampling. `grid`: of the input file. `boxes`: "pancreas" (lesion included) and "tumor" where
    they are not empty. `signature`: what the original image is recognized by.
    `folder`: its place in the cache, None where it is held in memory.
    """

    case_id: str
    center: str
    spacing: Triple
    shape: Shape
    original_shape: Shape
    original_spacing: Triple
    grid: Grid
    boxes: Mapping[str, Box]
    signature: Signature
    notes: tuple[str, ...]
    folder: Path | None
    has_label: bool
    files: CaseFiles | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def content_key(self) -> str:
        """16 hex digits that change with its files and its center's settings; "" in memory."""
        return "" if self.folder is None else self.folder.name.removeprefix(f"{self.case_id}-")

    @property
    def image_hu(self) -> np.ndarray:
        """int16 (z, y, x), HU; a read-only memory map where the case is cached."""
        return self._array(IMAGE)

    @property
    def label(self) -> np.ndarray | None:
        """uint8 (z, y, x): 0 background, 1 pancreas, 2 tumor; None where there is none."""
        return self._array(LABEL) if self.has_label else None

    def _array(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            assert self.folder is not None
            path = self.folder / name
            try:
                self.arrays[name] = np.load(path, mmap_mode="r")
            except (FileNotFoundError, ValueError, EOFError) as error:
                raise DataError(
                    f"{path}: is gone or damaged ({first_line(error)}): the cache was deleted or "
                    "changed while it was used; the same command makes it again"
                ) from error
        return self.arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        """Without open memory maps: a loader's worker opens them itself and shares the pages."""
        state = dict(self.__dict__)
        if self.folder is not None:
            state["arrays"] = {}
        return state

    def weights(self, back: bool = False) -> Weights:
        """Resampling from the original canonical grid to the prepared one, or back."""
        original = (self.original_shape, self.original_spacing)
        prepared = (self.shape, self.spacing)
        return grid_weights(*prepared, *original) if back else grid_weights(*original, *prepared)


def prepare_case(case: Case, settings: PrepareSettings) -> PreparedCase:
    """One case, held in memory: for a new CT that is predicted once."""
    meta, arrays = resample_case(case, settings)
    return replace(prepared_from_meta(meta, None, None), arrays=arrays)


def restore_prob(prob: np.ndarray, prepared: PreparedCase, box: Box | None = None) -> np.ndarray:
    """Probability on the prepared grid -> float32 on the original canonical grid, linear.

    `box`: the part of the prepared grid that `prob` fills, elsewhere it is 0; None: all of it.
    """
    restored = np.zeros(prepared.original_shape, np.float32)
    for place, part in _restored_parts(prob, prepared, box):
        restored[place] = part
    return restored


def restore_mask(
    prob: np.ndarray, prepared: PreparedCase, threshold: float, box: Box | None = None
) -> np.ndarray:
    """`restore_prob(prob, prepared, box) > threshold`, of which only some slices are in memory."""
    mask = np.zeros(prepared.original_shape, bool)
    for place, part in _restored_parts(prob, prepared, box):
        mask[place] = part > threshold
    return mask


def _restored_parts(prob: np.ndarray, prepared: PreparedCase, box: Box | None) -> Iterator[Part]:
    """The parts of the restored probability that are not all 0."""
    box = Box((0, 0, 0), prepared.shape) if box is None else box
    _check_shape(prob, box.shape, prepared)
    z, y, x = prepared.weights(back=True)
    in_z, in_y, in_x = box.slices
    for place, part in resample_parts(prob, (z[:, in_z], y[:, in_y], x[:, in_x])):
        yield place, np.minimum(part, 1, out=part)  # weights sum to 1 but for the last bit


def to_prepared_mask(mask: np.ndarray, prepared: PreparedCase) -> np.ndarray:
    """Mask on the original canonical grid -> bool on the prepared grid, covered by half."""
    _check_shape(mask, prepared.original_shape, prepared)
    return resample_mask(mask.astype(bool, copy=False), prepared.weights())


def _check_shape(array: np.ndarray, shape: Shape, prepared: PreparedCase) -> None:
    if array.shape != shape:
        raise ValueError(f"{prepared.case_id}: array is {array.shape}, its grid is {shape}")


def resample_case(
    case: Case, settings: PrepareSettings
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is stored of a case: meta and arrays."""
    image_hu, label = case.image_hu, case.label
    spacing = case.spacing if settings.spacing is None else settings.spacing
    shape = output_shape(image_hu.shape, case.spacing, spacing)
    if spacing != case.spacing:
        weights = grid_weights(image_hu.shape, case.spacing, shape, spacing)
        image_hu = resample_image(image_hu, weights)
        if label is not None:
            organ = resample_mask(label > 0, weights).astype(np.uint8)
            organ[resample_mask(label == LABEL_TUMOR, weights)] = LABEL_TUMOR
            label = organ
    arrays = {IMAGE: image_hu} if label is None else {IMAGE: image_hu, LABEL: label}
    masks = {} if label is None else {"pancreas": label > 0, "tumor": label == LABEL_TUMOR}
    boxes = {name: bounding_box(mask) for name, mask in masks.items()}
    meta = {
        "case_id": case.case_id,
        "center": case.center,
        "spacing": spacing,
        "shape": shape,
        "original_shape": case.image_hu.shape,
        "original_spacing": case.spacing,
        "grid": asdict(case.grid),
        "boxes": {name: (box.start, box.stop) for name, box in boxes.items() if box is not None},
        "signature": to_text(sign_image(case.center, case.case_id, case.image_hu, case.spacing)),
        "notes": case.notes,
        "has_label": label is not None,
    }
    return meta, arrays


def prepared_from_meta(
    meta: dict[str, Any], folder: Path | None, files: CaseFiles | None
) -> PreparedCase:
    grid = {name: tuple(values) for name, values in meta["grid"].items()}
    return PreparedCase(
        case_id=meta["case_id"],
        center=meta["center"],
        spacing=tuple(meta["spacing"]),
        shape=tuple(meta["shape"]),
        original_shape=tuple(meta["original_shape"]),
        original_spacing=tuple(meta["original_spacing"]),
        grid=Grid(**grid),
        boxes={name: Box(tuple(a), tuple(b)) for name, (a, b) in meta["boxes"].items()},
        signature=from_text(meta["center"], meta["case_id"], meta["signature"]),
        notes=tuple(meta["notes"]),
        folder=folder,
        has_label=meta["has_label"],
        files=files,
    )
