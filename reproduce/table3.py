"""Table III: tumor segmentation on unseen centers, coarse and fine, the pancreas found or given.

python reproduce/table3.py --centers centers.toml --checkpoints checkpoints --out reproduced
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reproduce.run_table import run_table
from reproduce.tables import Table, TableRow

TABLE = Table(
    name="table3",
    title="Table III: generalized tumor segmentation",
    paper="table3_tumor_generalized",
    rows=(
        TableRow("C-Seg", "tumor_coarse"),
        TableRow("F-Seg", "tumor_fine"),
        TableRow("C-Mask", "tumor_coarse", roi_source="mask"),
        TableRow("F-Mask", "tumor_fine", roi_source="mask"),
    ),
)

if __name__ == "__main__":
    run_table(TABLE)
