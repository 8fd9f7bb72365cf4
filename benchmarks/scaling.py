"""Recompute the numbers of docs/scaling.md: python benchmarks/scaling.py [--check]

They are arithmetic on what `run.py` has measured, on a CPU (benchmarks/results.json) and, of the
networks, on a GPU (benchmarks/results_gpu.json). What nobody has measured is said to be so, and
the formula is given with its variable. --check writes nothing and exits with status 1 where the
page and the numbers differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.page_block import refresh
from utils.arguments import Count
from utils.commands import ROOT
from utils.files import read_json
from utils.scripts import ArgumentParser, run_script

NEEDED, USED = ("check", "cascade"), ("check", "cascade", "scale")
CASES, GPUS, PER_JOB = 40_000, 64, 100
NOT_MEASURED = "not measured"


def read_values(path: Path, gpu: Path | None = None) -> dict[str, dict[str, Any]]:
    """Bench -> values of a result, and its machine. Raises ValueError where one is missing.

    `gpu`: the result of a machine that has one; its cascade is there as "gpu".
    """
    result = read_json(path, "make it by benchmarks/run.py", ("benches", "machine", "quick"))
    absent = [n for n in NEEDED if result["benches"].get(n, {}).get("status") != "done"]
    if absent:
        raise ValueError(
            f"{path}: has no {', '.join(absent)}; run benchmarks/run.py --only {' '.join(absent)} "
            f"--out {path.name}"
        )
    if result["quick"]:
        raise ValueError(f"{path}: was made with --quick; give one that was not")
    benches = {
        name: one
        for name, one in result["benches"].items()
        if name in USED and one["status"] == "done"
    }
    facts = {
        "date": min(one["date"] for one in benches.values()),
        "load": max(one["load_before"] for one in benches.values()),
    }
    values = {name: one["values"] for name, one in benches.items()}
    if gpu is not None and gpu.is_file():
        there = read_json(gpu, "make it by benchmarks/run.py", ("benches",))["benches"]
        if there.get("cascade", {}).get("status") == "done":
            values["gpu"] = there["cascade"]["values"]
    return {**values, "machine": {**result["machine"], **facts}}


def render(values: Mapping[str, Mapping[str, Any]], cases: int = CASES, gpus: int = GPUS) -> str:
    """The page's block of numbers, as Markdown."""
    check, cascade, machine = values["check"], values["cascade"], values["machine"]
    outside = cascade["without_networks_s"]
    gmac = cascade["paper_network_gmac"]
    lines = [
        f"Measured {machine['date']} on {machine['cores']} cores of {machine['processor']} with "
        f"{machine['threads']} thread(s), load {machine['load']:.0f}; seconds are a processor's "
        "own and belong to that machine.",
        "",
        f"| work on a CPU core | CT, million voxels | s a CT | {cases:,} CTs, core hours |",
        "| --- | --- | --- | --- |",
        *_cpu_rows(check, cascade, cases),
        "",
        "| disk | MiB a CT | " + f"{cases:,} CTs, TiB |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {mib:.2f} | {mib * cases / 2**20:.2f} |"
            for name, mib in (
                ("prepared cases (training, evaluation)", check["stored_mib"]),
                ("what the check remembers", check["facts_kib"] / 2**10),
                ("masks and measures (painted bodies: simple masks)", cascade["written_mib"]),
            )
        ),
        "",
        f"- Networks: {gmac / 1e3:.1f} x 10^12 multiply-accumulates a CT (four stages of width 32, "
        f"eight mirrors, {cascade['passes']:.0f} passes of each mirror, counted). On a GPU that "
        f"makes `r` x 10^12 of them a second this takes g = {gmac / 1e3:.1f} / r seconds; r and g: "
        f"{_on_gpu(values.get('gpu'))}.",
        f"- A GPU's process on one core: {outside:.1f} + g seconds a CT one after the other, "
        f"so {cases:,} CTs on {gpus} GPUs take ({outside:.1f} + g) x {cases:,} / {gpus} s = "
        f"{outside * cases / gpus / 3600:.1f} h + g x {cases / gpus / 3600:.2f} h.",
        f"- With reading and writing beside the GPU, on `c` cores for each: the larger of "
        f"{outside:.1f} / c and g. The GPU is the bound below r = {gmac / 1e3 / outside:.1f} with "
        f"one core, {4 * gmac / 1e3 / outside:.1f} with four.",
        f"- Jobs: {cases:,} / {PER_JOB} = {cases // PER_JOB} of `docs/predict.smk`, "
        f"{cases // PER_JOB / gpus:.2f} on each GPU; each loads its networks once.",
        "",
        *_growth_rows(values.get("scale")),
    ]
    return "\n".join(lines)


def _on_gpu(cascade: Mapping[str, Any] | None) -> str:
    """The rate of a GPU's networks, and the seconds of a CT."""
    if cascade is None:
        return NOT_MEASURED
    seconds, gmac = cascade["networks_s"], cascade["network_gmac"]
    return f"{gmac / 1e3 / seconds:.0f} and {seconds:.2f} on one {cascade['device']}"


def _cpu_rows(check: Mapping[str, Any], cascade: Mapping[str, Any], cases: int) -> list[str]:
    """A line for each kind of work."""
    size, body = check["million_voxels"], cascade["million_voxels"]
    rows = (
        ("read image and label", size, check["read_s"]),
        ("check (read, judge, sign)", size, check["check_s"]),
        ("check again, remembered", size, check["remembered_s"]),
        ("prepare (read, resample, store)", size, check["prepare_s"]),
        ("prepare again, in the cache", size, check["prepared_s"]),
        ("predict, file to files, without the networks", body, cascade["without_networks_s"]),
    )
    return [
        f"| {name} | {voxels:.1f} | {seconds:.3f} | {seconds * cases / 3600:.1f} |"
        for name, voxels, seconds in rows
    ]


def _growth_rows(scale: Mapping[str, Any] | None) -> list[str]:
    """A line for each step of many tiny cases."""
    if scale is None:
        return [f"Growth with the number of cases: {NOT_MEASURED}."]
    counts = list(next(iter(scale.values()))["at"])
    return [
        f"Growth between {counts[-2]} and {counts[-1]} tiny cases, with networks that do no work:",
        "",
        "| step | time grows as cases to the power | ms a tiny case | MiB a case |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name.replace('_', ' ')} | {of['exponent']:.2f} | {of['ms']:.1f} | "
            f"{of['mib_per_case']:.3f} |"
            for name, of in scale.items()
        ),
    ]


def write(asked: argparse.Namespace) -> None:
    """Write the page, or compare it."""
    block = render(read_values(asked.results, asked.gpu), asked.cases, asked.gpus)
    refresh(asked.page, block, Path(__file__).name, check=asked.check)


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--results", type=Path, default=ROOT / "benchmarks" / "results.json")
    add("--gpu", type=Path, default=ROOT / "benchmarks" / "results_gpu.json")
    add("--page", type=Path, default=ROOT / "docs" / "scaling.md")
    add("--cases", type=Count, default=CASES)
    add("--gpus", type=Count, default=GPUS)
    add("--check", action="store_true", help="compare only")
    run_script(write, parser.parse_args(argv))


if __name__ == "__main__":
    main()
