"""Table VI's last columns: parameters, multiply-accumulates, passes, seconds per case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from methods import EXTERNAL, stages_of
from reproduce.analysis.compare import Line, Paper
from reproduce.analysis.layout import show_number
from reproduce.analysis.method_costs import COUNTED_AT, method_cost
from reproduce.analysis.render import Group, Sheet
from reproduce.analysis.rows import ResultKey, Rows

# Metric -> heading. What has the paper's number beside it is at the paper's size.
COLUMNS = {
    "params_1e7": "parameters (1e7)",
    "gflops": "GMACs",
    "passes": "forwards / backwards per sample",
    "run_params_1e7": "as run: parameters (1e7)",
    "run_gmacs": "as run: GMACs",
    "seconds_per_case": "seconds per case",
    "device": "device",
    "inference_s_per_case": "the paper's seconds per case (NVIDIA A30)",
}
PRINTED = ("params_1e7", "gflops", "inference_s_per_case")  # columns of paper/
TITLE = "Cost"
STAGES = tuple(COUNTED_AT)  # of the two input sizes that the paper names
UNKNOWN_DEVICE = "not noted"
NOTE = (
    "Parameters and multiply-accumulates (which the paper calls GFLOPs) are those of the tumor's "
    "coarse and fine network together, counted by fvcore for the paper's two input sizes: at the "
    "paper's width, and as run where there are results. Forwards and backwards: images through a "
    "whole network for each training sample of the fine tumor stage, counted while steps ran "
    "(results/costs.csv). Seconds per case are those of both tumor stages on the device that is "
    "named: reading the case, mirroring, all rounds and writing the mask; the paper's are another "
    "machine's, so no difference is shown. nnU-Net's and PaNSegNet's are of the networks that "
    "predict, for the patch that was planned."
)


def cost_table(
    rows: Rows, keys: Mapping[str, Sequence[ResultKey]], paper: Paper
) -> tuple[list[Line], Sheet, str]:
    """`cost_lines`, their sheet, and what the numbers are."""
    lines = cost_lines(rows, keys, paper)
    found = {(line.row, line.metric): line for line in lines}
    body = tuple((row, *(show_cost(found, row, name) for name in COLUMNS)) for row in keys)
    return lines, Sheet(TITLE, ("", *COLUMNS.values()), (Group("", body),)), NOTE


def cost_lines(rows: Rows, keys: Mapping[str, Sequence[ResultKey]], paper: Paper) -> list[Line]:
    """The lines of each row of `keys`, row -> its fine-stage results, one a center.

    A number is None where the row is not built, and what its results tell where the row has no
    results, or one of them or its coarse stage is missing.
    """
    lines = []
    for row, of_row in keys.items():
        ours: dict[str, float] = {}
        device = None
        if of_row:
            ours = _counted(rows, of_row[0].method) | _run_networks(rows, of_row[0].method)
            timed = measure_seconds(rows, of_row)
            if timed is not None:
                ours["seconds_per_case"], device = timed
        for name in (*ours, *(name for name in PRINTED if name not in ours)):
            value, printed = ours.get(name), paper.get(row, {}).get(name)
            difference = None if value is None or printed is None else value - printed
            note = device if name == "seconds_per_case" else None
            line = Line("", row, "", name, value, paper=printed, difference=difference, note=note)
            lines.append(line)
    return lines


def measure_seconds(rows: Rows, keys: Sequence[ResultKey]) -> tuple[float, str] | None:
    """Seconds per case of a row's tumor stages, mean over centers, and on which device.

    None where a result is missing or was not timed.
    """
    stages = _stages(keys[0].method) if keys else ()
    found = [[rows.select(replace(key, stage=stage)) for stage in stages] for key in keys]
    cases = [part for pair in found for part in pair if part]
    timed = [[case["seconds"] for case in part if "seconds" in case] for part in cases]
    if not keys or len(timed) < len(stages) * len(keys) or not all(timed):
        return None
    devices = {case.get("device", UNKNOWN_DEVICE) for part in cases for case in part}
    return sum(float(np.mean(part)) for part in timed) / len(keys), " and ".join(sorted(devices))


def _stages(method: str) -> tuple[str, ...]:
    """The tumor stages that a method has: a system that is not ours has one."""
    return tuple(stage for stage in STAGES if stage in stages_of(method))


def _counted(rows: Rows, method: str) -> dict[str, float]:
    """What a method costs at the paper's size; of a system that is not ours, as its run planned."""
    if method in EXTERNAL:
        run = _run_networks(rows, method)
        return {"params_1e7": run["run_params_1e7"], "gflops": run["run_gmacs"]} if run else {}
    cost = method_cost(method)
    return {
        "params_1e7": cost.parameters / 1e7,
        "gflops": cost.macs / 1e9,
        "forwards": cost.forwards,
        "backwards": cost.backwards,
    }


def _run_networks(rows: Rows, method: str) -> dict[str, float]:
    """What the networks of a row's results cost; {} where there are none."""
    stages = _stages(method)
    found = [rows.networks.get((method, stage)) for stage in stages]
    counted = [network for network in found if network is not None]
    if len(counted) < len(stages):
        return {}
    return {
        "run_params_1e7": sum(network.parameters for network in counted) / 1e7,
        "run_gmacs": sum(network.macs for network in counted) / 1e9,
    }


def show_cost(found: Mapping[tuple[str, str], Line], row: str, name: str) -> str:
    """One of `COLUMNS`; `found`: the lines by row and metric."""
    if name == "passes":
        passes = [found.get((row, part)) for part in ("forwards", "backwards")]
        return " / ".join("-" if line is None else f"{line.ours:.3g}" for line in passes)
    if name == "device":
        timed = found.get((row, "seconds_per_case"))
        return "-" if timed is None else str(timed.note)
    line = found.get((row, name))
    if name == "inference_s_per_case":
        return "-" if line is None or line.paper is None else f"{line.paper:.2f}"
    return "-" if line is None else show_number(line)
