"""docs/NAME.template.md and results/ -> docs/NAME.md: no number in it is typed by hand.

A template's `{{name argument ...}}` is replaced by what the function of that name in `BLOCKS`
makes of the exported cases: a table, list items or a piece of a sentence.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from reproduce.analysis.benchmark import STAGES, RowDice, measure_dice, seeds_table, signed
from reproduce.analysis.choice import choice_markdown, compare_trials, read_trial
from reproduce.analysis.claim import show_claim, show_verdict
from reproduce.analysis.compare import MEAN, METRICS, Line, paper_number, read_paper
from reproduce.analysis.comparison import show_comparison, show_costs
from reproduce.analysis.layout import PAIRED_COLUMNS, gain_cells, mean_interval
from reproduce.analysis.page import NOT_MEASURED, Experiment, Page, head, number
from reproduce.analysis.page_blocks import show_changes, show_detection
from reproduce.analysis.paper_tables import TABLE5, TABLE5_COARSE, TABLES
from reproduce.analysis.shift import BASELINE, Shift, measure_shift, shift_sentence, shift_table
from reproduce.experiments.presets import PRESETS

PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")
# In a page that is written by hand: what stands between is made of the cases.
SECTION = re.compile(r"<!-- (\{\{[^{}]*\}\}) -->\n.*?<!-- end -->", re.DOTALL)

FULL_COMMIT = 40  # digits


def render_page(template: str, page: Page) -> str:
    """The page. Raises ValueError, naming it, for a placeholder that cannot be filled."""

    def fill(match: re.Match[str]) -> str:
        name, *arguments = shlex.split(match[1]) or [""]
        if name not in BLOCKS:
            raise ValueError(f"{{{{{match[1]}}}}}: unknown; choose from {', '.join(BLOCKS)}")
        try:
            return BLOCKS[name](page, *arguments)
        except (TypeError, KeyError) as error:
            raise ValueError(f"{{{{{match[1]}}}}}: wrong arguments ({error})") from error

    return PLACEHOLDER.sub(fill, template)


def refresh_sections(text: str, page: Page) -> str:
    """A page with its sections `<!-- {{block}} --> ... <!-- end -->` filled in."""
    return SECTION.sub(
        lambda match: f"<!-- {match[1]} -->\n{render_page(match[1], page)}\n<!-- end -->", text
    )


def show_choice(page: Page, *names: str) -> str:
    """Trials of several settings, compared on the same cases (`choice.py`).

    Of method ours, or of another as `method=bl`.
    """
    method = next((n.removeprefix("method=") for n in names if n.startswith("method=")), "ours")
    names = tuple(name for name in names if not name.startswith("method="))
    trials = [read_trial(page.results / name) for name in names if page.experiment(name)]
    if len(trials) < len(names):
        return f"{', '.join(names)}: {NOT_MEASURED}."
    reserved = str(PRESETS["small"].phantoms)
    return choice_markdown(trials, compare_trials(trials, method, reserved)).rstrip()


def show_status(page: Page, *names: str) -> str:
    """A line for each experiment, those that are not exported too."""
    lines = head(
        ["experiment", "preset", "seeds", "unseen centers", "results", "commit, date", "not run"]
    )
    for name in names:
        found = page.experiment(name)
        if found is None:
            lines.append(f"| {name} | | | | {NOT_MEASURED} | | all |")
            continue
        last = found.facts["exports"][-1]
        cells = [
            name,
            found.facts["preset"],
            " ".join(map(str, found.rows.seeds)),
            " ".join(found.targets),
            f"{sum(map(len, found.rows.evaluations.values()))} cases",
            f"{_short(last['commit'])}, {_day(last['date'])}",
            f"{len(last['not_run'])} (experiment.json)" if last["not_run"] else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def show_facts(page: Page, name: str) -> str:
    """The command, machine and phantoms of an experiment, in one sentence."""
    found = page.experiment(name)
    if found is None:
        return f"{name}: {NOT_MEASURED}."
    last = found.facts["exports"][-1]
    phantoms = f"; {found.facts['phantoms']}" if found.facts["phantoms"] else ""
    number = len(found.facts["exports"])
    more = f"The last of {number} exports (experiment.json): " if number > 1 else ""
    made = f"`{last['command']}`; {last['machine']}, torch {last['packages']['torch']}"
    return f"{more}{made}{phantoms}."


def show_count(page: Page, name: str, what: str) -> str:
    """How many seeds, centers or cases an experiment has, as a number in a sentence."""
    found = page.experiment(name)
    if found is None:
        return "0"
    counts = {
        "seeds": len(found.rows.seeds),
        "centers": len(found.targets),
        "cases": sum(map(len, found.rows.evaluations.values())),
    }
    return str(counts[what])


def show_shift(page: Page, name: str, *rows: str) -> str:
    """What the shift costs these rows of Table V, center by center."""
    shifts = _shifts(page.experiment(name), rows)
    return "\n".join(shift_table(shifts)) if shifts else f"What the shift costs: {NOT_MEASURED}."


def show_shift_words(page: Page, name: str, *rows: str) -> str:
    """Whether these rows of Table V lose by the shift, a list item for each."""
    shifts = _shifts(page.experiment(name), rows)
    lines = [f"- {shift_sentence(row, of_row)}" for row, of_row in shifts.items()]
    return "\n".join(lines or [f"- What the shift costs: {NOT_MEASURED}."])


def _shifts(found: Experiment | None, rows: Sequence[str]) -> dict[str, dict[str, Shift | None]]:
    """Row -> center -> what the shift costs, of the seeds for which a row has all; {} for none."""
    if found is None:
        return {}
    every, targets = found.rows, found.targets
    shifts: dict[str, dict[str, Shift | None]] = {}
    for row in rows:
        whole = [
            seed
            for seed in every.seeds
            if all(measure_shift(every, target, (seed,), row) for target in targets)
        ]
        seeds = whole or every.seeds
        shifts[row] = {target: measure_shift(every, target, seeds, row) for target in targets}
    return shifts if any(any(of_row.values()) for of_row in shifts.values()) else {}


def show_rows(page: Page, name: str) -> str:
    """Table V in short: every row, before and after the fine stage, a line each."""
    found = page.experiment(name)
    if found is None:
        return f"Table V: {NOT_MEASURED}."
    header = ["stage, threshold", "row", *found.targets, "mean DSC [95 %]"]
    header += [f"minus {BASELINE} [95 %, cases]", *PAIRED_COLUMNS]
    header += ["ASD (mm)", "HD (mm)", "seeds"]
    lines = head(header)
    for stage, table in (("fine", TABLE5.name), ("coarse", TABLE5_COARSE.name)):
        measured = found.lines(table)
        index = {(x.threshold, x.row, x.center, x.metric): x for x in measured}
        for threshold, row in dict.fromkeys((line.threshold, line.row) for line in measured):
            dice = [index[threshold, row, center, "dsc"] for center in (*found.targets, MEAN)]
            if all(line.ours is None for line in dice):
                continue
            surfaces = [index[threshold, row, MEAN, metric] for metric in ("asd_mm", "hd95_mm")]
            cells = [*map(number, dice[:-1]), number(dice[-1]) + mean_interval(dice[-1])]
            cells += [""] * 5 if row == BASELINE else gain_cells(dice[-1])
            cells += map(number, surfaces)
            cells.append(str(max(line.seeds or 0 for line in dice)))
            lines.append(f"| {stage}, {threshold} | {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def show_seeds(page: Page, *names: str) -> str:
    """Every row against BL, seed by seed, of one experiment after the other."""
    dice: dict[str, RowDice] = {}
    for name in names:
        found = page.experiment(name)
        if found is None:
            continue
        for stage, seed in product(STAGES, found.rows.seeds):
            rows = measure_dice(found.rows, found.targets, stage, seed)
            if any(values is not None for values in rows[BASELINE].values()):
                place = f"{stage.removeprefix('tumor_')}, {seed}"
                dice[place if name == names[0] else f"{place}, {name}"] = rows
    return "\n".join(seeds_table(dice)) if dice else f"Seed by seed: {NOT_MEASURED}."


def show_means(page: Page, *names: str) -> str:
    """Tables II and III in short: means over centers of each experiment, DSC, ASD and HD."""
    lines = head(["table", "row", *names, "paper"])
    for table in (TABLES["table2"], TABLES["table3"]):
        paper = read_paper(table.paper)
        for row in table.rows:
            cells = [table.title.partition(":")[0].removeprefix("Table "), row.name]
            for name in names:
                found = page.experiment(name)
                measured = () if found is None else found.lines(table.name)
                cells.append(_means(measured, row.name) if measured else NOT_MEASURED)
            printed = (paper_number(paper, row.name, MEAN, metric) for metric in METRICS)
            cells.append(" / ".join("-" if value is None else f"{value:.2f}" for value in printed))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def show_difference(page: Page, name: str, table: str, row: str, threshold: str) -> str:
    """What a row's DSC has more than the baseline's, in a sentence: +2.2 [0.2, 4.4]."""
    found = page.experiment(name)
    lines = () if found is None else found.lines(table)
    for line in lines:
        if (line.threshold, line.row, line.center, line.metric) == (threshold, row, MEAN, "dsc"):
            return NOT_MEASURED if line.gain is None else signed(line)
    return NOT_MEASURED


BLOCKS: Mapping[str, Callable[..., str]] = {
    "status": show_status,
    "choice": show_choice,
    "facts": show_facts,
    "count": show_count,
    "shift": show_shift,
    "shift_words": show_shift_words,
    "rows": show_rows,
    "seeds": show_seeds,
    "claim": show_claim,
    "verdict": show_verdict,
    "means": show_means,
    "gain": show_difference,
    "comparison": show_comparison,
    "costs": show_costs,
    "detection": show_detection,
    "changes": show_changes,
}


def _day(time: str) -> str:
    """20260101-000000 -> 2026-01-01."""
    return f"{time[:4]}-{time[4:6]}-{time[6:8]}"


def _short(commit: str) -> str:
    """A commit's first seven digits, as others are noted."""
    return commit[:7] if len(commit) == FULL_COMMIT else commit


def _means(measured: Sequence[Line], row: str) -> str:
    """DSC [its interval] / ASD / HD of threshold target, means over centers."""
    found = [x for x in measured if (x.threshold, x.row, x.center) == ("target", row, MEAN)]
    lines = {line.metric: line for line in found}
    if lines["dsc"].ours is None:
        return NOT_MEASURED
    numbers = [number(lines[metric]) for metric in METRICS]
    numbers[0] += mean_interval(lines["dsc"])
    return " / ".join(numbers)
