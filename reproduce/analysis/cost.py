"""Table VI's last columns: parameters, multiply-accumulates and seconds per case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from methods import build_method, read_config
from models.complexity import PATCH_SIZES, Complexity, count_complexity
from reproduce.analysis.compare import Line, Paper
from reproduce.analysis.layout import show_number
from reproduce.analysis.render import Group, Sheet
from reproduce.experiments.cells import Cell, Plan
from reproduce.experiments.finished import find_folders, read_cell

COLUMNS = {
    "params_1e7": "parameters (1e7)",
    "gflops": "GMACs",
    "inference_s_per_case": "seconds per case",
}
TITLE = "Cost"
STAGES = ("tumor_coarse", "tumor_fine")  # of the two input sizes that the paper names
NOTE = (
    "Parameters and multiply-accumulates (which the paper calls GFLOPs) are those of the tumor's "
    "coarse and fine network together, counted by fvcore for the paper's two input sizes. Seconds "
    "per case are those of both tumor stages, on the device that computed them: reading the case, "
    "mirroring, all rounds and writing the mask."
)


def cost_table(
    plan: Plan, cells: Mapping[str, tuple[Cell, ...]], paper: Paper
) -> tuple[list[Line], Sheet, str]:
    """`cost_lines`, their sheet, and what the numbers are."""
    lines = cost_lines(plan, cells, paper)
    numbers = {(line.row, line.metric): show_number(line) for line in lines}
    body = tuple((row, *(numbers[row, column] for column in COLUMNS)) for row in paper)
    return lines, Sheet(TITLE, ("", *COLUMNS.values()), (Group("", body),)), NOTE


def cost_lines(plan: Plan, cells: Mapping[str, tuple[Cell, ...]], paper: Paper) -> list[Line]:
    """Three lines for each row of `paper`; `cells`: row -> its fine-stage cells, one a center.

    A number is None where the row has no cells or one of them, or its coarse stage, is missing.
    """
    lines = []
    for row, numbers in paper.items():
        ours = measure_cost(plan, cells.get(row, ()))
        for column in COLUMNS:
            value, printed = ours.get(column), numbers[column]
            difference = None if value is None else value - printed
            line = Line("", row, "", column, ours=value, paper=printed, difference=difference)
            lines.append(line)
    return lines


def measure_cost(plan: Plan, cells: tuple[Cell, ...]) -> dict[str, float]:
    """What the networks of a row cost, by column; empty where a result is missing."""
    pairs = [tuple(replace(cell, stage=stage) for stage in STAGES) for cell in cells]
    if not pairs or any(not find_folders(plan, cell) for pair in pairs for cell in pair):
        return {}
    counted = [
        count_stage(plan, cell, size) for cell, size in zip(pairs[0], PATCH_SIZES, strict=True)
    ]
    seconds = [sum(_mean_seconds(plan, cell) for cell in pair) for pair in pairs]
    return {
        "params_1e7": sum(c.parameters for c in counted) / 1e7,
        "gflops": sum(c.macs for c in counted) / 1e9,
        "inference_s_per_case": float(np.mean(seconds)),
    }


def count_stage(plan: Plan, cell: Cell, size: tuple[int, int, int]) -> Complexity:
    """The network of a cell's run, at the paper's input size (z, y, x)."""
    config = read_config(find_folders(plan, cell)[0].parent / "config.json")
    with torch.device("meta"):
        network = build_method(config).build_network()
    return count_complexity(network, [size])


def _mean_seconds(plan: Plan, cell: Cell) -> float:
    return float(np.mean([row["seconds"] for row in read_cell(plan, cell) or ()]))
