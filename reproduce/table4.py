"""Table IV: tumor segmentation by four-fold cross-validation inside each center.

python reproduce/table4.py --centers centers.toml --checkpoints checkpoints --out reproduced
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reproduce.run_table import run_table
from reproduce.table3 import TABLE as GENERALIZED
from reproduce.tables import Table

TABLE = Table(
    name="table4",
    title="Table IV: tumor segmentation, four-fold cross-validation in each center",
    paper="table4_tumor_fourfold",
    rows=tuple(replace(row, folds=True) for row in GENERALIZED.rows),
)

if __name__ == "__main__":
    run_table(TABLE)
