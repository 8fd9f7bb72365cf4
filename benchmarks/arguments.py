"""The command line of the benchmarks that measure trained networks on a center."""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.arguments import Seed
from utils.commands import default_path
from utils.config import Evaluation
from utils.scripts import ArgumentParser


def parse_arguments(text: str | None, stage: str) -> tuple[Evaluation, tuple[str, ...]]:
    """The runs of `stage` that are asked for, and their methods; `text`: the help's."""
    parser = ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--centers", type=Path, default=default_path("centers.toml"))
    add("--checkpoints", type=Path, default=default_path("checkpoints"))
    add("--target", required=True, help="a center that the runs have not seen")
    add("--seed", type=Seed, help="of the runs; default: the newest")
    add("--methods", nargs="+", default=["bl", "ours"], help="a column of the table each")
    args = parser.parse_args()
    request = Evaluation(
        stage,
        centers=args.centers,
        checkpoints=args.checkpoints,
        target=args.target,
        seed=args.seed,
    )
    return request, tuple(args.methods)
