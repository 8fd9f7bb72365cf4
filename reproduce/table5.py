"""Table V: the method's parts, each against the baseline on the same unseen cases (F-Seg).

python reproduce/table5.py --centers centers.toml --checkpoints checkpoints --out reproduced
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reproduce.run_table import run_table
from reproduce.tables import Table, TableRow
from utils.stages import VARIANTS

TABLE = Table(
    name="table5",
    title="Table V: ablation, tumor, F-Seg",
    paper="table5_ablation",
    rows=tuple(TableRow(variant, "tumor_fine", variant=variant) for variant in VARIANTS),
    baseline="BL",
)

if __name__ == "__main__":
    run_table(TABLE)
