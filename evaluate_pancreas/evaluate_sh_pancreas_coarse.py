"""Evaluate the coarse pancreas stage (Fig. 4, first box) on the subsampled volume."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from engine.command_line import parse_evaluation, run_script
from engine.evaluation import run_stage
from utils.stages import PANCREAS_COARSE

if __name__ == "__main__":
    run_script(run_stage, parse_evaluation(PANCREAS_COARSE))
