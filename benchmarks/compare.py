"""Two results of `run.py` beside each other: every number then and now, and their ratio."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.benches import NOT_RUN

# Numbers of one machine: seconds, and what is counted per second. Ratios, counts, exponents and
# bytes are the code's, and can be compared between machines.
OF_MACHINE = re.compile(r"(^|_)(s|ms|us|seconds|load)$|_per_s$|(^|_)(g?flops|gmacs?)$")


def flatten(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a nested dict, by its path with dots; texts and truth values are left out."""
    for name, value in values.items():
        path = f"{place}.{name}" if place else name
        if isinstance(value, Mapping):
            if name != NOT_RUN:
                yield from flatten(value, path)
        elif isinstance(value, (list, tuple)):
            yield from flatten({str(n): part for n, part in enumerate(value)}, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path, float(value)


def is_of_machine(path: str) -> bool:
    """Whether a number can only be compared with one of the same machine."""
    return any(OF_MACHINE.search(part) for part in path.split("."))


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A table of every number that both results have, and a line for what only one has.

    `then` and `now` as `run.py` writes them. Numbers of one machine are marked with a star.
    """
    names = [name for name in now["benches"] if _is_done(now, name)]
    there = [name for name in names if _is_done(then, name)]
    both = [name for name in there if _asked(then, name) == _asked(now, name)]
    rows = [row for name in both for row in _rows(name, then, now)]
    width = max([len(row[0]) for row in rows], default=4)
    lines = [f"{'name':{width}}  {'then':>12}  {'now':>12}  {'now/then':>9}"]
    lines += [f"{row[0]:{width}}  {row[1]:>12}  {row[2]:>12}  {row[3]:>9}" for row in rows]
    lines += [f"then: {_origin(then)}", f"now:  {_origin(now)}"]
    lines.append("* of one machine and what else it did then; all else can be compared")
    if then["machine"] != now["machine"]:
        lines.append("the machines differ: compare nothing that has a *")
    if then["quick"] != now["quick"]:
        lines.append("one of them was made with --quick: compare nothing")
    for text, some in (
        ("other arguments, not compared", [name for name in there if name not in both]),
        ("only now", [name for name in names if name not in there]),
        ("only then", [n for n in then["benches"] if _is_done(then, n) and n not in names]),
    ):
        lines += [f"{text}: {', '.join(some)}"] if some else []
    return lines


def _is_done(result: Mapping[str, Any], name: str) -> bool:
    return bool(result["benches"].get(name, {}).get("status") == "done")


def _asked(result: Mapping[str, Any], name: str) -> Any:
    return result["benches"][name]["arguments"]


def _rows(
    name: str, then: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, str]]:
    before, after = (dict(flatten(of["benches"][name]["values"])) for of in (then, now))
    for path in [path for path in after if path in before]:
        a, b = before[path], after[path]
        ratio = f"{b / a:.2f}" if a else "1.00" if a == b else "-"
        mark = " *" if is_of_machine(path) else "  "
        yield f"{name}.{path}{mark}", f"{a:.5g}", f"{b:.5g}", ratio


def _origin(result: Mapping[str, Any]) -> str:
    machine, benches = result["machine"], result["benches"].values()
    what = ", ".join(machine["gpus"]) or f"{machine['cores']} cores of {machine['processor']}"
    commits = ", ".join(sorted({one["commit"] for one in benches}))
    dates = [min((one["date"] for one in benches), default=""), f"commit {commits}"]
    return ", ".join([*dates, what, f"{machine['threads']} thread(s)"])
