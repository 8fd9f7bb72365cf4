"""Parameters and multiply-accumulates of the network, next to those of Table VI.

    python benchmarks/bench_complexity.py

Counted by fvcore's FlopCountAnalysis at the paper's two input sizes, for each combination of heads.
The exit status is 1 where a figure differs from the expected one. Nothing is computed: the network
is traced on the meta device, which knows shapes only.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import utils.script_start  # noqa: F401 - a signal ends it in one line
from models.backbone import ResidualEncoderDecoder
from models.complexity import count_complexity
from utils.scripts import ArgumentParser

TABLE6 = Path(__file__).resolve().parents[1] / "paper" / "table6_comparison.csv"


@dataclass(frozen=True)
class Row:
    """One combination of heads, what it must give, and the row of Table VI that prints it."""

    heads: str
    settings: dict[str, bool]
    parameters: int  # of one network; Table VI counts coarse + fine
    gmacs: str
    table6_method: str | None


ROWS = (
    Row(
        "segmentation",
        {"distance": False, "slices": False, "projection": False},
        18_957_825,
        "945.23",
        "BigAug",
    ),
    Row("+ projection", {"distance": False, "slices": False}, 18_966_049, "945.29", None),
    Row("+ distance", {"slices": False}, 18_966_082, "945.41", None),
    Row("+ slices (Ours)", {}, 18_999_619, "945.44", "Ours"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each combination of heads; 1 where a figure differs."""
    ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    with TABLE6.open(encoding="utf-8", newline="") as file:
        table6 = {row["method"]: row for row in csv.DictReader(file)}
    print("Multiply-accumulates: fvcore, 1x1x64x224x224 + 1x1x32x128x128, nearest upsampling.")
    print(f"{'heads':16}{'parameters':>12}{'expected':>12}{'GMACs':>9}{'expected':>10}  Table VI")
    differs = False
    for row in ROWS:
        with torch.device("meta"):
            network = ResidualEncoderDecoder(upsample="nearest", **row.settings)
        found = count_complexity(network)
        paper = ""
        agrees = (found.parameters, found.gmacs) == (row.parameters, row.gmacs)
        if row.table6_method is not None:
            cells = table6[row.table6_method]
            both = f"{2 * found.parameters / 1e7:.2f}"  # coarse + fine
            agrees &= (both, found.gmacs) == (cells["params_1e7"], cells["gflops"])
            paper = (
                f"{cells['params_1e7']}e7, {cells['gflops']} ({row.table6_method}); ours {both}e7"
            )
        print(
            f"{row.heads:16}{found.parameters:12,}{row.parameters:12,}{found.gmacs:>9}"
            f"{row.gmacs:>10}  {paper}{'' if agrees else '  DIFFERS'}"
        )
        differs |= not agrees
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
