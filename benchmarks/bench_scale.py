"""How time and memory grow with the number of cases: check, prepare, evaluate, tables, predict.

    python benchmarks/bench_scale.py [--counts 10 100 1000]

Tiny synthetic cases (20 x 48 x 44 voxels) and networks that do no work: what is measured is all
else. Each count has a process of its own. Of each step, between the two largest counts:
`exponent` (1: twice the cases take twice the time; above 1: more), `ms` per case at the largest
count, and `mib_per_case`, by how much the process's peak grows; at 40,000 cases a growth of 0.1
MiB per case is 4 GiB. `_again`: the same command once more, when all is done already.
`duplicates_x10`: the search for copies alone, among ten times as many signatures.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.scale_steps import run_steps
from utils.arguments import Count
from utils.scripts import ArgumentParser

COUNTS, WARM_UP = (10, 100, 1000), 2
Steps = dict[str, dict[str, float]]


def measure(counts: Sequence[int] = COUNTS) -> dict[str, Any]:
    """By step: seconds and peak for each count, and how they grow. `counts`: two or more."""
    if len(counts) < 2 or sorted(set(counts)) != list(counts):
        raise ValueError(f"counts {list(counts)}: give two or more, each larger than the last")
    found: dict[int, Steps] = {}
    for count in counts:
        command = [sys.executable, __file__, "--one", str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found[count] = json.loads(done.stdout)
    return {
        name: {
            **growth({count: found[count][name]["s"] for count in counts}),
            "mib_per_case": slope({count: found[count][name]["peak_mib"] for count in counts}),
            "at": {str(count): found[count][name] for count in counts},
        }
        for name in found[counts[0]]
    }


def growth(seconds: Mapping[int, float]) -> dict[str, float]:
    """The exponent between the two largest counts, and milliseconds per case at the largest.

    >>> growth({10: 1.0, 100: 2.0, 200: 8.0})
    {'exponent': 2.0, 'ms': 40.0}
    """
    less, most = sorted(seconds)[-2:]
    ratio = max(seconds[most], 1e-9) / max(seconds[less], 1e-9)
    exponent = math.log(ratio) / math.log(most / less)
    return {"exponent": exponent, "ms": 1e3 * seconds[most] / most}


def slope(mib: Mapping[int, float]) -> float:
    """MiB that each case adds, between the two largest counts."""
    less, most = sorted(mib)[-2:]
    return (mib[most] - mib[less]) / (most - less)


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=Count, nargs="+", default=COUNTS)
    parser.add_argument("--one", type=Count, metavar="COUNT", help="one count, printed as JSON")
    asked = parser.parse_args(argv)
    if asked.one:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            run_steps(Path(name) / "warm up", WARM_UP)  # imports, and what is made once
            print(json.dumps(run_steps(Path(name) / "measured", asked.one)))
        return
    print(f"{'step':16} {'exponent':>9} {'ms a case':>10} {'MiB a case':>11}")
    for name, of in measure(asked.counts).items():
        print(f"{name:16} {of['exponent']:9.2f} {of['ms']:10.2f} {of['mib_per_case']:11.4f}")


if __name__ == "__main__":
    main()
