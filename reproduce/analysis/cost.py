"""Table VI's last columns: parameters, multiply-accumulates and seconds per case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from methods import stages_of
from reproduce.analysis.compare import Line, Paper
from reproduce.analysis.layout import show_number
from reproduce.analysis.render import Group, Sheet
from reproduce.analysis.rows import ResultKey, Rows

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
    "mirroring, all rounds and writing the mask. nnU-Net's and PaNSegNet's are those of the "
    "networks that predict, for the patch that was planned."
)


def cost_table(
    rows: Rows, keys: Mapping[str, Sequence[ResultKey]], paper: Paper
) -> tuple[list[Line], Sheet, str]:
    """`cost_lines`, their sheet, and what the numbers are."""
    lines = cost_lines(rows, keys, paper)
    numbers = {(line.row, line.metric): show_number(line) for line in lines}
    body = tuple((row, *(numbers[row, column] for column in COLUMNS)) for row in paper)
    return lines, Sheet(TITLE, ("", *COLUMNS.values()), (Group("", body),)), NOTE


def cost_lines(rows: Rows, keys: Mapping[str, Sequence[ResultKey]], paper: Paper) -> list[Line]:
    """Three lines for each row of `paper`; `keys`: row -> its fine-stage results, one a center.

    A number is None where the row has no results or one of them, or its coarse stage, is missing.
    """
    lines = []
    for row, numbers in paper.items():
        ours = measure_cost(rows, keys.get(row, ()))
        for column in COLUMNS:
            value, printed = ours.get(column), numbers[column]
            difference = None if value is None else value - printed
            line = Line("", row, "", column, ours=value, paper=printed, difference=difference)
            lines.append(line)
    return lines


def measure_cost(rows: Rows, keys: Sequence[ResultKey]) -> dict[str, float]:
    """What the networks of a row cost, by column; empty where a result is missing."""
    stages = [stage for key in keys[:1] for stage in STAGES if stage in stages_of(key.method)]
    found = [[rows.select(replace(key, stage=stage)) for stage in stages] for key in keys]
    networks = [rows.networks.get((key.method, stage)) for key in keys[:1] for stage in stages]
    counted = [network for network in networks if network is not None]
    seconds = [
        [case["seconds"] for case in cases if "seconds" in case]
        for pair in found
        for cases in pair
        if cases is not None
    ]
    if not keys or len(counted) < len(stages) or len(seconds) < len(stages) * len(keys):
        return {}
    if not all(seconds):
        return {}
    return {
        "params_1e7": sum(network.parameters for network in counted) / 1e7,
        "gflops": sum(network.macs for network in counted) / 1e9,
        "inference_s_per_case": sum(float(np.mean(part)) for part in seconds) / len(keys),
    }
