"""Table II: pancreas segmentation (lesion included) on centers that no training saw.

python reproduce/table2.py --centers centers.toml --checkpoints checkpoints --out reproduced
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.paper_tables import TABLE2
from reproduce.analysis.run_table import run_table

if __name__ == "__main__":
    run_table(TABLE2)
