"""Results with masks on small centers, and what a picture holds, for the tests of the figures."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from data.readers import list_cases, load_case
from data.readers.masks import write_mask
from engine.case_metrics import Row
from reproduce.analysis.figures import Request
from reproduce.experiments.cells import Cell
from tests._table_fixtures import fill, make_row

NAMES, CASES = ("A", "B", "C"), 4
OPTIONS = ("--width", "8", "--spacing", "3", "2.4", "2.4", "--margin-voxels", "1", "2", "2")


def evaluate(request: Request, cell: Cell, rows: Sequence[Row], shift: int = 2) -> list[Path]:
    """The cell's result folders: rows as given; masks are the label, `shift` columns on.

    A row that says so gets an empty mask.
    """
    folders = fill(request.plan, cell, rows)
    files = {f.case_id: f for f in list_cases(request.centers[cell.target])}
    for number, folder in enumerate(folders):
        for row in rows[number :: len(folders)]:
            case = load_case(request.centers[cell.target], files[row["case_id"]])
            assert case.label is not None
            mask = case.label >= (2 if cell.stage.startswith("tumor") else 1)
            mask = np.roll(mask, shift, axis=2) & ("pred" not in row.get("empty", ""))
            write_mask(folder / "predictions" / f"{case.case_id}.nii.gz", mask, case.grid)
    return folders


def rows_of(dscs: Sequence[float], distances: Sequence[float] = (5, 6, 7, 8)) -> list[Row]:
    """Lines of case_0, case_1, ..."""
    return [
        make_row(f"case_{i}", float(d)) | {"centroid_mm": float(mm)}
        for i, (d, mm) in enumerate(zip(dscs, distances, strict=False))
    ]


def texts(figure: Figure) -> list[str]:
    found = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible()]
    return [t.get_text() for t in found if t.get_text().strip()]


def smallest_font(figure: Figure) -> float:
    found = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible()]
    return min(float(t.get_fontsize()) for t in found if t.get_text().strip())


def count_pixels(path: Path, color: tuple[int, int, int]) -> int:
    """How many pixels of a picture are nearly of a color."""
    picture = cv2.imread(str(path))
    assert picture is not None
    return int((np.abs(picture[..., ::-1].astype(int) - color).max(axis=-1) < 40).sum())


def commands(message: str) -> list[str]:
    return [line.strip() for line in message.splitlines() if line.strip().startswith("python ")]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def digest(folder: Path) -> str:
    """Names and bytes of everything below a folder."""
    content = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content.update(f"{path.relative_to(folder)} ".encode() + path.read_bytes())
    return content.hexdigest()
