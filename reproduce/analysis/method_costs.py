"""What each method costs at the paper's size: counted, kept in results/costs.csv for Table VI.

Counting a network takes seconds, so it is done by `reproduce/costs.py`; a method that the file does
not have yet is counted where it is asked for.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import nn

from engine.passes import count_passes
from methods import METHODS, build_method, make_config
from models.complexity import PATCH_SIZES, count_complexity
from reproduce.analysis.render import to_csv
from reproduce.analysis.rows import Network
from utils.commands import ROOT
from utils.files import write_text
from utils.stages import STAGES

COSTS = ROOT / "results" / "costs.csv"
COUNTED_AT = dict(zip(("tumor_coarse", "tumor_fine"), PATCH_SIZES, strict=True))


@dataclass(frozen=True)
class MethodCost:
    """Of the coarse and fine tumor network together, and of a training step.

    `parameters`, `macs`: at the paper's width and input sizes (Table VI). `forwards`, `backwards`:
    passes for each training sample, the mean of `steps` steps that were run.
    """

    method: str
    parameters: int
    macs: int
    forwards: float
    backwards: float
    steps: int


def count_method(method: str) -> MethodCost:
    """Count a method with its default settings; nothing is typed in."""
    networks = []
    for stage in COUNTED_AT:
        with torch.device("meta"):
            network = build_method(make_config(STAGES[stage], method)).network
        networks.append(count_stage(network, stage))
    passes = count_passes(method)
    return MethodCost(
        method,
        parameters=sum(network.parameters for network in networks),
        macs=sum(network.macs for network in networks),
        forwards=round(passes.forwards, 3),
        backwards=round(passes.backwards, 3),
        steps=passes.steps,
    )


def count_stage(network: nn.Module, stage: str) -> Network:
    """What a network on the meta device costs at the paper's input size of a tumor stage."""
    counted = count_complexity(network, [COUNTED_AT[stage]], getattr(network, "channels", 1))
    return Network(counted.parameters, counted.macs)


def write_costs(methods: Sequence[str] = tuple(METHODS), path: Path = COSTS) -> Path:
    """Count the methods and write the file; those that it has and that are not named stay."""
    costs = read_costs(path) if path.is_file() else {}
    for method in methods:
        costs[method] = count_method(method)
        print(costs[method], flush=True)
    order = [method for method in METHODS if method in costs]
    names = [item.name for item in fields(MethodCost)]
    write_text(path, to_csv(names, [asdict(costs[method]) for method in order]))
    return path


def read_costs(path: Path = COSTS) -> dict[str, MethodCost]:
    """Method -> cost. Raises ValueError, naming the file, where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return {
                line["method"]: MethodCost(
                    line["method"],
                    parameters=int(line["parameters"]),
                    macs=int(line["macs"]),
                    forwards=float(line["forwards"]),
                    backwards=float(line["backwards"]),
                    steps=int(line["steps"]),
                )
                for line in csv.DictReader(stream)
            }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not what reproduce/costs.py writes ({error}); write it again"
        ) from error


@functools.cache
def method_cost(method: str) -> MethodCost:
    """The cost of a method of `METHODS`: as the file has it, or counted now."""
    known = read_costs(COSTS) if COSTS.is_file() else {}
    return known.get(method) or count_method(method)
