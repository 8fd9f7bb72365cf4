"""What `reproduce/run.py` ends with: tables, figures, the benchmark's report, of what is there."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from data.centers import load_centers
from engine.run_folders import environment, new_time
from reproduce.analysis.benchmark import benchmark_keys, benchmark_markdown, measure_benchmark
from reproduce.analysis.collect import collect_rows
from reproduce.analysis.paper_tables import COARSE
from reproduce.analysis.run_table import report_table
from reproduce.analysis.tables import Report, thresholds_of
from reproduce.experiments.cells import lesion_centers
from reproduce.experiments.request import BENCHMARK, DEMO, Request
from utils.commands import ROOT, to_arguments
from utils.files import write_text

SUMMARIES = {BENCHMARK: "benchmark.md", DEMO: "summary.md"}  # all in one file, with what made it
FIGURE_SCRIPTS = ("figure5", "figure6", "figure7", "figure8")


def show_results(request: Request, figures: bool = True) -> None:
    """Print and write every table that was asked for, of what is there now; draw its figures."""
    reports = [
        report_table(table, request.plan, request.targets, request.seeds)
        for table in request.tables
    ]
    for report in reports:
        report.write(request.out)
    text = to_markdown(request, reports)
    if request.what in SUMMARIES:
        write_text(request.out / SUMMARIES[request.what], text)
    print(text)
    if request.figures and figures:
        draw_figures(request)


def to_markdown(request: Request, reports: Sequence[Report]) -> str:
    """The tables; of what has a summary, with what made it; of a benchmark, the shift first.

    And Table VI last, where some of its own rows were asked for. A benchmark that ends at the
    coarse stage has its rows alone.
    """
    if request.what == BENCHMARK and request.stage != COARSE:
        centers = load_centers(request.plan.centers)
        every = lesion_centers(centers)
        asked = (request.targets or every, request.seeds)
        thresholds = thresholds_of(request.tables[0], request.plan.holdout)
        rows = collect_rows(
            request.plan, centers, benchmark_keys(every, *asked, thresholds=thresholds)
        )
        measured = measure_benchmark(rows, *asked, thresholds=thresholds)
        first = benchmark_markdown(measured, reports[0], facts_of(request))
        return "\n".join([first, *(report.markdown for report in reports[1:])])
    has_summary = request.what in SUMMARIES
    head = [f"# {request.what.title()}\n", *facts_of(request), ""] if has_summary else []
    return "\n".join([*head, *(report.markdown for report in reports)])


def draw_figures(request: Request) -> None:
    """Draw each figure by its script; one that lacks results says so and holds up no other."""
    options = {"out": request.out, "seed": request.seeds[0], "targets": request.targets}
    for name in FIGURE_SCRIPTS:
        words = to_arguments({"experiment": request.out, **options})
        script = str(ROOT / "reproduce" / f"{name}.py")
        print(f"{name}:", flush=True)
        subprocess.run([sys.executable, script, *words], check=False)


def facts_of(request: Request) -> list[str]:
    """What a reader needs to get the numbers again."""
    plan, made = request.plan, environment()
    devices = ", ".join(made["gpus"]) if "cpu" not in request.devices else made["platform"]
    given = {"every training": plan.options, **plan.stage_options, **plan.method_options}
    return [
        f"- command: `{request.command}`",
        f"- experiment: {plan.time}, preset {plan.preset}, holdout {plan.holdout:g}",
        f"- seeds: {' '.join(map(str, request.seeds))}",
        f"- synthetic centers: {request.phantoms}",
        *(f"- arguments of {n}: `{shlex.join(words)}`" for n, words in given.items() if words),
        f"- devices: {' '.join(request.devices)} ({devices or made['platform']})",
        f"- date: {new_time()} UTC; torch {made['packages']['torch']}",
    ]
