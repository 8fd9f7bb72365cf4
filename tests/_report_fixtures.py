"""A tiny case with a label and two results, and a page of several such cases."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from report.contents import CaseImages, Contents, Curve, Layer, ReportCase, ReportTable, ResultRows
from reproduce.analysis.render import Group, Sheet

SHAPE, SPACING = (16, 40, 48), (5.0, 1.5, 1.25)
PANCREAS = (slice(4, 12), slice(10, 26), slice(8, 34))
TUMOR = (slice(6, 10), slice(14, 22), slice(12, 22))
FOUND = (slice(6, 11), slice(16, 24), slice(16, 30))  # of the tumor
IN_BOTH, ONLY_FOUND = (8, 19, 19), (8, 20, 26)  # voxels (z, y, x)
HOSTILE = '<img src=x onerror="document.title=1"> & </script><script>document.title=2</script>'


def make_images(shift: int = 0, *, label: bool = True, layers: int = 2) -> CaseImages:
    """40 HU with noise, 100 in the pancreas, 0 in the tumor; a result moved by `shift` in x."""
    rng = np.random.default_rng(5)
    image = rng.normal(40, 8, SHAPE)
    truth = np.zeros(SHAPE, np.uint8)
    image[PANCREAS], truth[PANCREAS] = 100, 1
    image[TUMOR], truth[TUMOR] = 0, 2
    pancreas, tumor = np.zeros((2, *SHAPE), bool)
    pancreas[PANCREAS] = True
    tumor[FOUND] = True
    found = (
        Layer("pancreas fine", "pancreas", pancreas),
        Layer("tumor fine", "tumor", np.roll(tumor, shift, axis=2)),
    )
    return CaseImages(image.astype(np.int16), SPACING, truth if label else None, found[:layers])


def make_contents(
    names: tuple[str, ...] = ("case 1", "case 2", "case 3", "case 4"), title: str = "A page"
) -> Contents:
    """Cases with a Dice of 20, 80, 50 and 35 %, one table, one curve."""
    dice = (20.0, 80.0, 50.0, 35.0, 65.0, 5.0)[: len(names)]
    rows = [
        {
            **{"case_id": name, "center": "C", "dsc": value, "asd_mm": 10 - value / 10},
            **{"hd95_mm": 30 - value / 4, "centroid_mm": 100 / value, "empty": ""},
        }
        for name, value in zip(names, dice, strict=True)
    ]
    group = Group("DSC (%)", (("F-Seg", "46.25 (46.11, +0.14)"),))
    return Contents(
        title=title,
        cases=[
            ReportCase(name, "C", functools.partial(make_images, number))
            for number, name in enumerate(names)
        ],
        results=[
            ResultRows("tumor fine", rows),
            ResultRows(
                "tumor coarse", [{**row, "dsc": 100 - d} for row, d in zip(rows, dice, strict=True)]
            ),
        ],
        tables=[ReportTable("Table III", (Sheet("Threshold", ("", "C"), (group,)),), ("A note.",))],
        curves=[Curve("tumor fine", [1, 2, 3], {"total": [3, 2, 1.5], "seg": [1, 0.5, 0.4]})],
        facts={"command": "python x.py"},
        checkpoints={"run": "ab" * 32},
    )


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")
