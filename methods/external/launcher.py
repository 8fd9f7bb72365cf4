"""Run nnU-Net's own commands with our trainers: python methods/external/launcher.py FOLDER plan

`nnunet.py` starts it, with nnU-Net's environment variables set. FOLDER/settings.json says what to
do: `plan` makes the plans and preprocesses the cases, `train` trains the networks of some folds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# Imports of ours are inside the functions: nnU-Net's worker processes read this file anew.


def main() -> int:
    """Exit status: 0, or `DROPPED` where the planner leaves a configuration out."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path)
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("plan", help="plan the networks and preprocess the cases")
    training = tasks.add_parser("train", help="train a network on each of some folds")
    training.add_argument("configuration")
    training.add_argument("folds", nargs="+", type=int)
    args = parser.parse_args()
    from methods.external.nnunet import SETTINGS

    settings: dict[str, Any] = json.loads((args.folder / SETTINGS).read_text(encoding="utf-8"))
    if args.task == "plan":
        return plan(args.folder, settings)
    for fold in args.folds:
        train(args.folder, settings, args.configuration, fold)
    return 0


def plan(home: Path, settings: dict[str, Any]) -> int:
    """Fingerprint, plans and preprocessed cases."""
    from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import (
        plan_and_preprocess_entry,
        preprocess_entry,
    )

    from methods.external.data_set import NUMBER
    from methods.external.nnunet import DROPPED, PLANS, read_plans

    number, processes = str(NUMBER), str(settings["processes"])
    os.environ["nnUNet_n_proc_DA"] = processes  # noqa: SIM112  the planner divides by it
    words = ["-d", number, "--no_pp", "-npfp", processes]
    words += ["-pl", settings["planner"], "-overwrite_plans_name", PLANS]
    if settings["gpu_memory_gb"]:
        words += ["-gpu_memory_target", str(settings["gpu_memory_gb"])]
    call(plan_and_preprocess_entry, words)
    for configuration in settings["configurations"]:
        if configuration not in read_plans(home)["configurations"]:
            print(
                f"nnU-Net's planner has dropped {configuration}: the patch of 3d_fullres holds "
                "more than a quarter of the median image; use its 3d_fullres, or give less "
                "--gpu-memory-gb"
            )
            return DROPPED
    configurations = sorted(set(settings["configurations"]) - {"3d_cascade_fullres"})
    words = ["-d", number, "-plans_name", PLANS, "-c", *configurations, "-np"]
    call(preprocess_entry, [*words, *[processes] * len(configurations)])
    return 0


def train(home: Path, settings: dict[str, Any], configuration: str, fold: int) -> None:
    """The network of one fold, from its last checkpoint where there is one."""
    from nnunetv2.run.run_training import run_training_entry

    from methods.external.data_set import DATA_SET
    from methods.external.nnunet import PLANS
    from methods.external.trainers import begin
    from utils.files import write_text

    begin(settings["trainer"], settings["budget"], settings["validated"])
    words = [DATA_SET, configuration, str(fold), "-tr", settings["trainer"], "-p", PLANS]
    call(run_training_entry, [*words, "--c", "-device", settings["device"]])
    write_text(home / f"{configuration}_fold{fold}.done", "")


def call(entry: Callable[[], Any], words: list[str]) -> None:
    """One of nnU-Net's commands."""
    print("nnU-Net:", entry.__name__, *words, flush=True)
    sys.argv = [entry.__name__, *words]
    entry()


if __name__ == "__main__":
    raise SystemExit(main())
