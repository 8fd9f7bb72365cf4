"""Table II: pancreas segmentation (lesion included) on centers that no training saw.

python reproduce/table2.py --centers centers.toml --checkpoints checkpoints --out reproduced
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reproduce.run_table import run_table
from reproduce.tables import Table, TableRow

TABLE = Table(
    name="table2",
    title="Table II: generalized pancreas segmentation",
    paper="table2_pancreas_generalized",
    rows=(TableRow("Coarse", "pancreas_coarse"), TableRow("Fine", "pancreas_fine")),
)

if __name__ == "__main__":
    run_table(TABLE)
