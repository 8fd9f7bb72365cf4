"""Cases with DICOM SEG labels, written as other tools write them, for the tests of readers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.case import Case, Center, Grid
from data.readers import list_cases, load_case, load_image
from engine.dicom_seg import Producer, write_dicom_seg
from tests.dicom_files import FRAME, stored_values, write_series
from tests.volumes import folder_center

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom", reason="highdicom is not installed (requirements-dicom.txt)")

SHAPE = (5, 6, 7)
PRODUCER = Producer("0.1.0")
STRUCTURES = {"pancreas": ("organ",), "tumor": ("tumour", "mass")}  # of `halves`


def case_of(center: Center) -> Case:
    (files,) = list_cases(center)
    return load_case(center, files)


def label_of(case: Case) -> np.ndarray:
    """What the labels below hold: pancreas above 0, tumor above 250 HU of `stored_values`."""
    return np.where(case.image_hu > 250, 2, np.where(case.image_hu > 0, 1, 0)).astype(np.uint8)


def write_pair(tmp_path: Path, axes: np.ndarray | None = None, **given: Any) -> Center:
    """A series and a SEG on it, as the folders images and labels of a center."""
    stored = given.pop("stored", stored_values())
    files = write_series(tmp_path / "images" / "P1", stored, axes, **given)
    case = load_image(tmp_path / "images" / "P1", "P1")
    masks = {"pancreas": case.image_hu > 0, "tumor": case.image_hu > 250}
    write_dicom_seg(tmp_path / "labels" / "P1.dcm", masks, files, case.grid, PRODUCER)
    return folder_center(tmp_path)


def write_seg(
    path: Path,
    masks: Mapping[str, np.ndarray],
    files: list[Path],
    kind: str = "BINARY",
    grid: Grid | None = None,
) -> None:
    """A SEG of another tool: segments of any name, coded as tissue; masks in the files' order.

    `grid`: its own geometry (axes along the world's).
    """
    stacked = np.stack(list(masks.values()), -1)
    array: Any = stacked.astype(np.uint8)
    if kind == "FRACTIONAL":
        array = stacked.astype(np.float32)
    if kind == "LABELMAP":
        array = (stacked * np.arange(1, len(masks) + 1)).max(axis=-1).astype(np.uint8)
    if grid is not None:
        affine = np.diag([*grid.spacing_xyz[::-1], 1.0])[[2, 1, 0, 3]]
        affine[:3, 3] = grid.origin_xyz
        array = hd.Volume(
            array,
            affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid=FRAME,
            channels={"SegmentNumber": list(range(1, len(masks) + 1))},
        )
    tissue = hd.sr.CodedConcept("85756007", "SCT", "Tissue")
    described = [
        hd.seg.SegmentDescription(number, name, tissue, tissue, "MANUAL")
        for number, name in enumerate(masks, 1)
    ]
    sources = [pydicom.dcmread(file) for file in files]
    seg = hd.seg.Segmentation(
        *(sources, array, kind, described, hd.UID(), 1, hd.UID(), 1, "M", "N", "1", "2")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)


def halves() -> dict[str, np.ndarray]:
    """Masks by `stored_values`: the pancreas without the tumor, the tumor, something else."""
    stored = stored_values()
    return {
        "Organ": (stored > 0) & (stored <= 250),
        "Mass": stored > 250,
        "Liver": stored < -200,
    }
