"""Dice of every case under every change, as data: `results/<experiment>/shifts/`.

A file for each method, target and seed, a line for each change, strength, stage and case.
"""

from __future__ import annotations

from dataclasses import dataclass

from reproduce.analysis.line_files import LineFiles


@dataclass(frozen=True)
class ShiftedCase:
    """Dice (%) of one stage on one case under one change.

    `strength`: as text, "" of the unchanged image. `weights`: digest of the four checkpoints.
    """

    method: str
    row: str
    target: str
    seed: int
    stage: str
    change: str
    strength: str
    case_id: str
    dsc: float
    weights: str


SHIFTS = LineFiles(
    folder="shifts",
    kind=ShiftedCase,
    values=("row", "dsc", "weights"),
    script="reproduce/shift_matrix.py --experiment FOLDER --out",
)
