"""Run the benchmarks and compare: python benchmarks/run.py [--only NAME ...] [--out FILE]

Each benchmark runs in a process of its own, ours and its peers in turn. FILE gets every number with
its machine, versions, date and commit, written after each benchmark: the same command on the same
code resumes an interrupted run. A benchmark whose optional package is missing is listed as not run,
with what to install. Then the numbers are shown beside those of --compare. Exit status: 1 where one
has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.benches import BENCHES, NOT_RUN
from benchmarks.compare import compare
from benchmarks.machine import describe_machine, load_average, measure_bound, versions
from reproduce.analysis.export import checked_out
from utils.arguments import Count
from utils.commands import ROOT
from utils.files import read_json, write_json
from utils.scripts import ArgumentParser, run_script

COMMITTED = ROOT / "benchmarks" / "results.json"
RUN_ONE = Path(__file__).with_name("run_one.py")
SAME = ("machine", "versions", "quick")  # what all of a file's benches share
KEYS = (*SAME, "bound", "benches")
DONE, MISSING, FAILED = "done", "not run", "failed"  # as run_one.py writes them


def run(asked: argparse.Namespace) -> None:
    """Run what is missing in the file, write it after each, print the comparison."""
    results, commit = open_results(asked), checked_out()
    for name in asked.only or BENCHES:
        bench = BENCHES[name]
        arguments = {**(bench.quick if asked.quick else bench.full), **asked.set.get(name, {})}
        wanted = {"commit": commit, "arguments": json.loads(json.dumps(arguments))}
        if is_done(results["benches"].get(name, {}), wanted):
            print(f"{name}: is in {asked.out} already", flush=True)
            continue
        print(f"{name}: {bench.text}", flush=True)
        found = run_in_child(bench.module, wanted["arguments"], asked.threads)
        results["benches"][name] = {"date": now(), **wanted, **found}
        write_json(asked.out, results)
    then = read_result(asked.compare) if asked.compare is not None else None
    for line in summary(results, then):
        print(line)
    print(f"written to {asked.out}")
    if any(one["status"] == FAILED for one in results["benches"].values()):
        raise SystemExit(1)


def is_done(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a bench was measured, on the same code and with the same arguments."""
    return found.get("status") == DONE and all(found[name] == wanted[name] for name in wanted)


def now() -> str:
    """The date of a result."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def open_results(asked: argparse.Namespace) -> dict[str, Any]:
    """What an interrupted run has left in the file, or a new result.

    Raises ValueError where the file is of another machine, other packages or another size.
    """
    facts: dict[str, Any] = {
        "machine": describe_machine(asked.threads),
        "versions": versions(),
        "quick": asked.quick,
    }
    if asked.out.is_file():
        before = read_result(asked.out)
        other = [name for name in SAME if before[name] != facts[name]]
        if other:
            raise ValueError(
                f"{asked.out}: is of another {', '.join(other)}; give another file by --out, or "
                "delete it"
            )
        return before
    return {**facts, "bound": measure_bound(), "benches": {}}


def read_result(path: Path) -> dict[str, Any]:
    """What `run` wrote. Raises ValueError, naming the file, where it is damaged or of another kind,
    and FileNotFoundError.
    """
    return read_json(path, "give a file that benchmarks/run.py wrote", KEYS)


def run_in_child(module: str, arguments: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """The bench's entry of the result: `run_one.py`'s, with its arguments and the machine's load.

    A process that ends without an answer has failed.
    """
    load = load_average()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        out = Path(folder) / "result.json"
        words = [sys.executable, str(RUN_ONE), module, str(out), json.dumps(dict(arguments))]
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads))}
        status = subprocess.run(words, env=environment, check=False).returncode
        if status in (130, 143, 129):
            raise SystemExit(status)
        if out.is_file():
            found = read_json(out, "run it again", ("status",))
        else:
            found = {"status": FAILED, "reason": f"its process ended with status {status}"}
    return {
        **found,
        "module": module,
        "load_before": load,
        "load_after": load_average(),
    }


def summary(results: Mapping[str, Any], then: Mapping[str, Any] | None) -> list[str]:
    """The comparison, or every number where there is none; then what was not run, and why."""
    lines = ["", *compare(results if then is None else then, results)]
    for kind in (MISSING, FAILED):
        found = {n: one["reason"] for n, one in results["benches"].items() if one["status"] == kind}
        if kind == MISSING:
            found |= {
                f"{name}, {part}": what
                for name, one in results["benches"].items()
                for part, what in one.get("values", {}).get(NOT_RUN, {}).items()
            }
        lines += [f"{kind}: {name}: {reason}" for name, reason in found.items()]
    return lines


def one_argument(text: str) -> tuple[str, str, Any]:
    """`scale.counts=[10, 100]` -> bench, argument, value."""
    place, _, value = text.partition("=")
    name, _, argument = place.partition(".")
    try:
        if name in BENCHES and argument.isidentifier():
            return name, argument, json.loads(value)
    except json.JSONDecodeError:
        pass
    raise argparse.ArgumentTypeError(f"{text[:60]!r}: NAME.ARGUMENT=VALUE, the value as JSON")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=BENCHES, metavar="NAME", help=f"of {', '.join(BENCHES)}")
    add("--quick", action="store_true", help="small and few: that it runs, not how fast")
    add("--out", type=Path, default=Path("bench.json"), help="file (default: bench.json)")
    text = "an argument of a bench's measure(), its value as JSON: inference.device='\"cuda\"'"
    add("--set", type=one_argument, nargs="+", default=[], metavar="NAME.ARGUMENT=VALUE", help=text)
    add("--threads", type=Count, default=1, help="of each process (default: 1)")
    add("--compare", type=Path, metavar="FILE", help=f"default: {COMMITTED.relative_to(ROOT)}")
    asked = parser.parse_args(argv)
    own: dict[str, dict[str, Any]] = {}
    for name, argument, value in asked.set:
        own.setdefault(name, {})[argument] = value
    asked.set = own
    if asked.compare is None and COMMITTED.is_file() and not asked.quick:
        asked.compare = COMMITTED
    return asked


if __name__ == "__main__":
    run_script(run, parse())
