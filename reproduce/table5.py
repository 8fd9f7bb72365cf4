"""Table V: the method's parts, each against the baseline on the same unseen cases (F-Seg).

python reproduce/table5.py --centers centers.toml --checkpoints checkpoints --out reproduced
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.paper_tables import TABLE5
from reproduce.analysis.run_table import run_table

if __name__ == "__main__":
    run_table(TABLE5)
