"""Table VI: other systems on the same unseen cases, and what each costs.

python reproduce/table6.py --centers centers.toml --checkpoints checkpoints --out reproduced
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reproduce.compare import read_paper
from reproduce.cost import cost_table
from reproduce.run_table import run_table
from reproduce.tables import Table, TableRow

PAPER = "table6_comparison"
BUILT = {
    "BigAug": TableRow(
        "BigAug",
        "tumor_fine",
        variant="BL",
        note="Table V's BL, the same run; the two are identical in all 12 numbers in the paper",
    ),
    "Ours": TableRow("Ours", "tumor_fine"),
}
TABLE = Table(
    name="table6",
    title="Table VI: comparison with other systems, tumor, F-Seg",
    paper=PAPER,
    rows=tuple(BUILT.get(name, TableRow(name)) for name in read_paper(PAPER)),
    extra=cost_table,
)

if __name__ == "__main__":
    run_table(TABLE)
