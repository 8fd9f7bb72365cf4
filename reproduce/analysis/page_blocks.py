"""Blocks of docs/results.md with a line for each row: Table VI, detection, changed images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reproduce.analysis.compare import (
    MEAN,
    Line,
    Measured,
    make_line,
    measure,
    paper_number,
    read_paper,
)
from reproduce.analysis.cost import COLUMNS as COST_COLUMNS
from reproduce.analysis.cost import cost_lines, show_cost
from reproduce.analysis.detection import METRICS as DETECTION
from reproduce.analysis.detection_table import count_free, measure_places
from reproduce.analysis.layout import gain_cells, mean_interval
from reproduce.analysis.lesion_free import read_lesion_free
from reproduce.analysis.page import NOT_MEASURED, Experiment, Page, head, number
from reproduce.analysis.paper_tables import EVERY_ROW, TABLE6
from reproduce.analysis.rows import ResultKey
from reproduce.analysis.run_table import keys_of_own_seeds
from reproduce.analysis.shift import BASELINE
from reproduce.analysis.shift_cases import SHIFTS
from reproduce.analysis.shift_middle import middle_losses
from reproduce.analysis.stats import mean_over_centers
from reproduce.analysis.tables import NOT_COMPARABLE, Keys, TableRow, short_trained

BASELINE_METHOD = "bl"
SHOWN = ("sensitivity", "lesion_sensitivity", "specificity", "auroc", "average_precision",
         "calibration_error")  # fmt: skip
COSTS = ("params_1e7", "gflops", "passes")
TABLES_FOLDER = "tables"  # in an experiment's folder: whole tables and pictures, to be linked


def show_comparison(page: Page, name: str) -> str:
    """Table VI in short: a line for each row that has results, the paper's number beside."""
    found = page.experiment(name)
    if found is None or not found.targets:
        return f"Table VI: {NOT_MEASURED}."
    header = ["row", "paper's DSC", "DSC [95 %]", f"minus {BASELINE} [95 %, cases]"]
    header += ["[95 %, trainings and cases]", "p, Wilcoxon", "source-val: DSC"]
    header += [f"source-val: minus {BASELINE}", "ASD (mm)", "HD (mm)", "seeds"]
    header += [COST_COLUMNS[column] for column in COSTS]
    keys = keys_of_own_seeds(TABLE6, found.rows, found.targets)
    short = short_trained(TABLE6, found.rows)
    costs = _costs(found, keys)
    lines, missing = head(header), []
    for row in TABLE6.rows:
        dice = _dice(found, row, keys, "target")
        if dice.ours is None:
            missing.append(row.name)
            continue
        other = _dice(found, row, keys, "source-val")
        is_base = row.method == BASELINE_METHOD
        gains = [""] * 3 if is_base else gain_cells(dice)[:3]
        cells = [
            f"{BASELINE} (printed as {row.name})" if is_base else row.name,
            "-" if dice.paper is None else f"{dice.paper:.2f}",
            number(dice) + mean_interval(dice),
            *gains,
            number(other),
            "" if is_base else gain_cells(other)[0],
            *(_surface(found, row, keys, metric) for metric in ("asd_mm", "hd95_mm")),
            str(dice.seeds),
            *(show_cost(costs, row.name, column) for column in COSTS),
        ]
        cells[0] += f" ({NOT_COMPARABLE})" if row.name in short else ""
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *_not_run(missing)])


def show_detection(page: Page, name: str) -> str:
    """Detection in short: means over the centers, threshold target."""
    found = page.experiment(name)
    if found is None or not found.targets:
        return f"Detection: {NOT_MEASURED}."
    every = keys_of_own_seeds(EVERY_ROW, found.rows, found.targets)
    keys = {place: of_seeds for place, of_seeds in every.items() if place[0] == "target"}
    free = read_lesion_free(found.folder, found.rows, keys)
    measured, absent = measure_places(found.rows, keys, free)
    if not measured:
        return "\n".join([f"- Detection: {NOT_MEASURED}.", *(f"- {text}" for text in absent)])
    lines = head(["row", *(DETECTION[metric][0] for metric in SHOWN)])
    for row in (row.name for row in EVERY_ROW.rows):
        parts = [measured.get(("target", row, center)) for center in found.targets]
        patients = [part for part in parts if part is not None]
        if len(patients) < len(parts):
            continue  # `absent` names it
        cells = [row]
        for metric in SHOWN:
            value = DETECTION[metric][1](patients)
            text = "-" if value.value is None else f"{value.value:.2f}"
            if value.interval is not None:
                text += f" [{value.interval.low:.2f}, {value.interval.high:.2f}]"
            cells.append(text)
        lines.append(f"| {' | '.join(cells)} |")
    said = " ".join([*absent, *count_free(measured), *free.notes])
    return "\n".join([*lines, "", said, *_links(found, "detection", ("csv",))])


def show_changes(page: Page, name: str) -> str:
    """What each row loses under each change of the image, middle strength, mean over centers."""
    found = page.experiment(name)
    if found is None or not any((found.folder / SHIFTS.folder).glob("*.csv")):
        return f"What each row loses under changes of the image: {NOT_MEASURED}."
    cases = SHIFTS.read_all(found.folder)
    losses = middle_losses(cases)
    lines = head(["row", "unchanged", *losses.changes])
    every = [row.name for row in EVERY_ROW.rows]
    for row in sorted(losses.rows, key=lambda r: every.index(r) if r in every else len(every)):
        shown = ("-" if x is None else f"{round(x, 1) + 0.0:+.1f}" for x in losses.rows[row])
        plain = losses.unchanged[row]
        text = "-" if plain is None else f"{plain:.2f}"
        lines.append(f"| {row} | {text} | {' | '.join(shown)} |")
    absent = [row for row in every if row not in losses.rows]
    return "\n".join([*lines, *_not_run(absent), *_links(found, "shift_matrix", ("csv", "png"))])


def _dice(found: Experiment, row: TableRow, keys: Keys, threshold: str) -> Line:
    """A row's mean Dice over the centers, compared with BL's trainings of the same seeds."""
    of_row = [keys.get((threshold, row.name, center), ()) for center in found.targets]
    before = None
    if row.method != BASELINE_METHOD:
        of_baseline = [[_baseline(key, threshold) for key in of_seeds] for of_seeds in of_row]
        before = [_measure(found, of_seeds) for of_seeds in of_baseline]
    parts = [_measure(found, of_seeds) for of_seeds in of_row]
    printed = paper_number(read_paper(TABLE6.paper), row.name, MEAN, "dsc")
    # a place without a name: the mixed model of a mean, which takes seconds, is not shown
    return make_line((threshold, row.name, "", "dsc"), parts, before, printed)


def _surface(found: Experiment, row: TableRow, keys: Keys, metric: str) -> str:
    """The mean of a distance over the centers."""
    parts = [_measure(found, keys["target", row.name, center]) for center in found.targets]
    samples = [part.values[metric] for part in parts if part is not None]
    return f"{mean_over_centers(samples):.2f}"


def _baseline(key: ResultKey, threshold: str) -> ResultKey:
    return ResultKey(key.stage, key.target, BASELINE_METHOD, key.seed, threshold=threshold)


def _measure(found: Experiment, keys: Sequence[ResultKey]) -> Measured | None:
    """The cases of a place; None where a seed is missing."""
    cases = [found.rows.select(key) for key in keys]
    there = [part for part in cases if part is not None]
    return measure(there) if there and len(there) == len(cases) else None


def _costs(found: Experiment, keys: Keys) -> dict[tuple[str, str], Line]:
    """Table VI's costs, by row and column."""
    by_row = {
        row.name: tuple(
            of_seeds[0]
            for (threshold, name, _), of_seeds in keys.items()
            if (threshold, name) == ("target", row.name)
        )
        for row in TABLE6.rows
    }
    lines = cost_lines(found.rows, by_row, read_paper(TABLE6.paper))
    return {(line.row, line.metric): line for line in lines}


def _not_run(names: Sequence[str]) -> list[str]:
    """The rows without results, in a sentence behind a table."""
    if not names:
        return []
    return ["", f"{NOT_MEASURED.capitalize()}: {', '.join(names)}."]


def _links(found: Experiment, name: str, kinds: Iterable[str]) -> list[str]:
    """Where the whole table and its picture are committed."""
    folder = found.folder / TABLES_FOLDER
    there = [kind for kind in kinds if (folder / f"{name}.{kind}").is_file()]
    place = f"../results/{found.folder.name}/{TABLES_FOLDER}/{name}"
    links = ", ".join(f"[{name}.{kind}]({place}.{kind})" for kind in there)
    return ["", f"In full, with intervals: {links}."] if there else []
