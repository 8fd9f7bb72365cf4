"""Train the fine tumor stage (Fig. 4, fourth box) on a crop around the lesion."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from engine.command_line import parse_config, run_script
from engine.training import fit
from utils.stages import TUMOR_FINE

if __name__ == "__main__":
    run_script(fit, parse_config(TUMOR_FINE))
