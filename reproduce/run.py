"""Fill tables: python reproduce/run.py --what table5 --centers centers.toml --devices cuda:0 cuda:1

Trains and evaluates what is missing for the named tables and prints them at the end; Snakemake runs
the steps, a process each, one for each device, or as jobs of a cluster (--executor slurm --jobs 8).
What is done is never done twice, and tables share what they have in common. After a kill, Ctrl-C or
the end of --minutes the same command resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.experiments.request import parse_request
from reproduce.workflow.run_request import main
from utils.scripts import run_script

if __name__ == "__main__":
    run_script(main, parse_request(__doc__))
