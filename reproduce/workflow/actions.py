"""What a worker does: the steps of the tables, in its own process, by the scripts' own parsers."""

from __future__ import annotations

import gc
import sys

import torch

from engine.command_line import parse_config, parse_evaluation
from engine.evaluation import run_stage
from engine.training import fit
from reproduce.experiments.finished import newest_times
from reproduce.prepare import prepare
from reproduce.workflow.tasks import EVALUATE, PREPARE, TRAIN, Task
from utils.commands import to_arguments
from utils.stages import stage_named


def run_step(task: Task, device: str) -> None:
    """Run a task as its script would, on `device`. Raises what the script's work raises."""
    argv = [*task.argv] if task.kind == PREPARE else [*task.argv, "--device", device]
    if task.kind == EVALUATE:  # runs of other settings may lie beside them
        argv += to_arguments({"time": newest_times(task.trainings)})
    sys.argv = [task.script, *argv]  # a run notes the command that began it
    try:
        if task.kind == TRAIN:
            fit(parse_config(stage_named(task.stage), argv))
        elif task.kind == EVALUATE:
            run_stage(parse_evaluation(stage_named(task.stage), argv))
        elif task.kind == PREPARE:
            prepare(argv)
        else:
            raise ValueError(f"{task.name}: unknown kind of task {task.kind!r}")
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # other processes may use the same GPU
