"""Detection and changed images in docs/comparison.md: a line for each row."""

from __future__ import annotations

from collections.abc import Iterable

from reproduce.analysis.detection import METRICS as DETECTION
from reproduce.analysis.detection_table import count_free, measure_places
from reproduce.analysis.lesion_free import read_lesion_free
from reproduce.analysis.page import NOT_MEASURED, Experiment, Page, head, not_run
from reproduce.analysis.paper_tables import EVERY_ROW, order_rows
from reproduce.analysis.run_table import keys_of_own_seeds
from reproduce.analysis.shift_cases import SHIFTS
from reproduce.analysis.shift_middle import middle_losses

SHOWN = ("sensitivity", "lesion_sensitivity", "specificity", "auroc", "average_precision",
         "calibration_error")  # fmt: skip
TABLES_FOLDER = "tables"  # in an experiment's folder: whole tables and pictures, to be linked


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
    lines = head(["row", "unchanged", *losses.changes, "seeds"])
    for row in order_rows(losses.rows):
        shown = ("-" if x is None else f"{round(x, 1) + 0.0:+.1f}" for x in losses.rows[row])
        plain = losses.unchanged[row]
        text = "-" if plain is None else f"{plain:.2f}"
        lines.append(f"| {row} | {text} | {' | '.join(shown)} | {losses.seeds[row]} |")
    absent = [row.name for row in EVERY_ROW.rows if row.name not in losses.rows]
    return "\n".join([*lines, *not_run(absent), *_links(found, "shift_matrix", ("csv", "png"))])


def _links(found: Experiment, name: str, kinds: Iterable[str]) -> list[str]:
    """Where the whole table and its picture are committed."""
    folder = found.folder / TABLES_FOLDER
    there = [kind for kind in kinds if (folder / f"{name}.{kind}").is_file()]
    place = f"../results/{found.folder.name}/{TABLES_FOLDER}/{name}"
    links = ", ".join(f"[{name}.{kind}]({place}.{kind})" for kind in there)
    return ["", f"In full, with intervals: {links}."] if there else []
