"""`Case`: one CT with its label and geometry, as every reader returns it; `Center`: a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

LABEL_BACKGROUND, LABEL_PANCREAS, LABEL_TUMOR = 0, 1, 2
HU_RANGE = (-1024, 3071)  # what a 12-bit CT can hold; below it lies padding (-3024, -2048), not air

Triple = tuple[float, float, float]
LabelMap = Mapping[str, tuple[int, ...]]


class DataError(ValueError):
    """Data that is refused: each problem names the case or file, what is wrong, and what to do."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[DataError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


@dataclass(frozen=True)
class Grid:
    """Where an image's voxels lie in the world, as SimpleITK states it for the file on disk.

    The only place of (x, y, z) order in the project: it travels untouched from the reader to the
    mask writer, so that a result comes back on exactly the grid of its input.
    """

    size_xyz: tuple[int, int, int]
    spacing_xyz: Triple
    origin_xyz: Triple
    direction: tuple[float, ...]  # 9 direction cosines, row by row


@dataclass(frozen=True)
class Case:
    """One CT volume in the canonical orientation.

    `image_hu`: int16 (z, y, x), Hounsfield units within `HU_RANGE`. `label`: uint8 of the same
    shape with 0 background, 1 pancreas, 2 tumor, or None where the case has none. `spacing`: mm,
    (z, y, x), of these arrays. `grid`: geometry of the input file, in its own orientation.
    `notes`: what was fixed on reading, one sentence each. `acquisition`: what DICOM tells of the
    scanner (keys of `data.readers.dicom.ACQUISITION_TAGS`); empty for every other format.
    """

    case_id: str
    center: str
    image_hu: np.ndarray
    label: np.ndarray | None
    spacing: Triple
    grid: Grid
    notes: tuple[str, ...] = ()
    acquisition: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Center:
    """One hospital's data set: one table of centers.toml, see docs/data.md for each key.

    `path` is absolute, `sites` too. None is the reader's own for `label_map`, `label_geometry` and
    `structures`, no choice for `series`, no split for `sites`.
    """

    name: str
    reader: str
    path: Path
    has_lesions: bool = True
    tumor_threshold: float | None = None
    label_map: LabelMap | None = None
    label_geometry: str | None = None
    images: str | None = None
    labels: str | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    patient_pattern: str | None = None
    exclude: tuple[str, ...] = ()
    hu_scale: float = 1.0  # HU = hu_scale * stored value + hu_offset, for images that are no HU
    hu_offset: float = 0.0
    drop_duplicates: bool = False
    series: str | Mapping[str, str] | None = None
    structures: Mapping[str, tuple[str, ...]] | None = None
    sites: Path | None = None
    site: tuple[str, ...] = ()
    site_case_column: str | None = None
    site_column: str = "site"
