"""Contents -> one HTML file: everything inline, nothing fetched, under a strict policy.

The policy allows two scripts and one style sheet by their hashes and pictures from data:, nothing
else: what a case's name smuggled in could not run, and no request leaves the page.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from report.charts import MAX_DOTS, draw_curve, draw_distribution
from report.columns import COLUMNS, DISTRIBUTIONS, column_of, columns_of, is_comparable, rank
from report.contents import CaseImages, Contents, ReportCase, ReportTable, ResultRows
from report.pictures import draw_planes
from report.volumes import MAX_LAYERS, choose_box, encode_image, encode_masks, find_foci
from reproduce.analysis.render import Sheet
from utils.about import NOTICE, VERSION
from utils.files import write_text
from utils.progress import Progress

HERE = Path(__file__).resolve().parent
NIIVUE = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
MAX_BYTES = 25_000_000  # of a page
FACTS_BYTES = 2_000  # what the page's script knows of a case with images, at most
VIEWERS = 6  # cases with volumes: the three worst and the three best
PICTURES = 100  # cases with pictures
MAX_GROUPS = 12  # rows of a chart


@dataclass
class Carried:
    """What the page carries of the cases, by their number; `size`: characters so far."""

    pictures: dict[int, str] = field(default_factory=dict)
    volumes: dict[int, tuple[str, str]] = field(default_factory=dict)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    size: int = 0


def build_report(
    path: Path,
    contents: Contents,
    *,
    viewers: int = VIEWERS,
    pictures: int = PICTURES,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write the page, atomically; returns `path`.

    The worst and the best cases of the first result come first: `viewers` of them get volumes, all
    up to `pictures` pictures of three planes, as far as the page stays under `max_bytes`. Raises
    ValueError where the numbers alone take more than that, or the viewer's script is not the one
    that its checksum names.
    """
    order = by_importance(contents)
    numbers = len(render(contents, Carried(), order).encode("utf-8"))
    room = max_bytes - numbers - FACTS_BYTES * len(contents.cases)
    if room < 0:
        raise ValueError(
            f"{path}: its numbers alone take {numbers / 1e6:.1f} MB; allow more than "
            f"{max_bytes / 1e6:.1f} MB, or give fewer results"
        )
    if room < len(niivue_script()):
        viewers = 0
    elif viewers:
        room -= len(niivue_script())
    carried = carry_images(contents.cases, order, viewers, pictures, room)
    write_text(path, render(contents, carried, order))
    return path


def by_importance(contents: Contents) -> list[int]:
    """The cases' numbers: worst, best, second worst, ... of the first result, then the others."""
    numbers = {(case.center, case.case_id): n for n, case in enumerate(contents.cases)}
    rows = contents.results[0].rows if contents.results else ()
    ranked = [
        (rank(row), numbers[row.get("center", ""), row["case_id"]])
        for row in rows
        if is_comparable(row)
    ]
    up = [number for _, number in sorted(ranked)]
    down = up[::-1]
    mixed = [number for pair in zip(up, down, strict=True) for number in pair]
    return list(dict.fromkeys([*mixed, *range(len(contents.cases))]))


def carry_images(
    cases: Sequence[ReportCase], order: Sequence[int], viewers: int, pictures: int, room: int
) -> Carried:
    """Pictures of the first `pictures` cases of `order`, volumes of the first `viewers`.

    A volume that would leave too little room for the pictures to come is left out.
    """
    carried = Carried()
    there = [number for number in order if cases[number].load is not None][:pictures]
    progress = Progress("report", len(there))
    for done, number in enumerate(there, 1):
        load = cases[number].load
        assert load is not None
        images = load()
        picture, volume, facts = prepare(images, with_volume=len(carried.volumes) < viewers)
        if carried.size + len(picture) > room:
            break
        carried.facts[number] = facts
        carried.pictures[number] = picture
        carried.size += len(picture)
        to_come = len(picture) * (len(there) - done)
        size = 0 if volume is None else sum(map(len, volume))
        if volume is not None and carried.size + size + to_come <= room:
            carried.volumes[number] = volume
            carried.size += size
        progress.advance()
    progress.close()
    return carried


def prepare(
    images: CaseImages, *, with_volume: bool
) -> tuple[str, tuple[str, str] | None, dict[str, Any]]:
    """A case's pictures, its volume and masks where wanted, and what the script must know."""
    layers = images.layers[:MAX_LAYERS]
    foci = find_foci(images)
    box = choose_box(images, foci[0])
    volume = None
    if with_volume:
        volume = (
            encode_image(images.image_hu[box.slices], images.spacing),
            encode_masks(images.label, layers, box, images.spacing),
        )
    facts = {
        "shape": images.image_hu.shape,
        "start": box.start,
        "crop": box.shape,
        "spacing": [round(mm, 3) for mm in images.spacing],
        "label": images.label is not None,
        "layers": [{"name": layer.name, "target": layer.target} for layer in layers],
        "foci": [{"name": f.name, "at": f.at} for f in foci if _inside(f.at, box)],
    }
    return draw_planes(images, foci[0].at, box), volume, facts


def _inside(at: Sequence[int], box: Any) -> bool:
    return all(a <= n < b for n, a, b in zip(at, box.start, box.stop, strict=True))


def render(contents: Contents, carried: Carried, order: Sequence[int]) -> str:
    """The page's text."""
    style, app = _asset("style.css"), _asset("outlines.js") + _asset("app.js")
    viewer = niivue_script() if carried.volumes else ""
    scripts = " ".join(_hash(text) for text in (viewer, app) if text)
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    sections = [
        ("distributions", "Distributions", distributions(contents)),
        ("tables", "Tables beside the paper", "".join(map(table_html, contents.tables))),
        ("training", "Training", curves_html(contents)),
    ]
    sections = [section for section in sections if section[2]]
    links = [("overview", "Overview"), ("cases", "Cases"), ("viewer", "Viewer")]
    links += [(name, title) for name, title, _ in sections]
    return string.Template(_asset("page.html")).substitute(
        policy=policy,
        version=escape(VERSION),
        notice=escape(NOTICE),
        title=escape(contents.title),
        style=style,
        lead="".join(f"<p>{escape(line)}</p>" for line in contents.lead),
        navigation="".join(f'<a href="#{name}">{title}</a>' for name, title in links),
        sections="".join(
            f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}'
            f"</h2>{inner}</section>"
            for name, title, inner in sections
        ),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=facts_html(contents),
        niivue=NIIVUE,
        notices=escape((HERE / "vendor" / "NOTICES.txt").read_text(encoding="utf-8")),
        templates="".join(
            f'<template id="pictures-{number}">{text}</template>'
            for number, text in carried.pictures.items()
        ),
        data=script_safe(page_data(contents, carried, order)),
        volumes="".join(
            f'<script type="text/plain" id="{kind}-{number}">{text}</script>'
            for number, volume in carried.volumes.items()
            for kind, text in zip(("image", "masks"), volume, strict=True)
        ),
        viewer=f"<script>{viewer}</script>" if viewer else "",
        app=app,
    )


def page_data(contents: Contents, carried: Carried, order: Sequence[int]) -> dict[str, Any]:
    """What the script reads: cases, results with their columns and rows, best and worst."""
    numbers = {(case.center, case.case_id): n for n, case in enumerate(contents.cases)}
    return {
        "cases": [
            {
                "id": case.case_id,
                "center": case.center,
                "warnings": case.warnings,
                "pictures": number in carried.pictures,
                "volume": number in carried.volumes,
                **carried.facts.get(number, {}),
            }
            for number, case in enumerate(contents.cases)
        ],
        "results": [_result_data(result, numbers) for result in contents.results],
        "failed": _without_rows(contents, numbers),
        "order": order,
    }


def _result_data(result: ResultRows, numbers: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    names = columns_of(result.rows)
    columns = [{"name": name, **vars(column_of(name))} for name in names]
    rows = [
        [numbers[row.get("center", ""), row["case_id"]], *(_plain(row.get(name)) for name in names)]
        for row in result.rows
    ]
    return {"name": result.name, "columns": columns, "rows": rows}


def _without_rows(contents: Contents, numbers: Mapping[tuple[str, str], int]) -> list[int]:
    """The cases that no result has measured: they are listed all the same."""
    measured = {
        numbers[row.get("center", ""), row["case_id"]]
        for result in contents.results
        for row in result.rows
    }
    return [number for number in numbers.values() if number not in measured]


def _plain(value: Any) -> Any:
    """A cell as JSON has it: numbers with six digits, several as a text, None for the unknown."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(f"{part:.1f}" if isinstance(part, float) else str(part) for part in value)
    number = float(value)
    return float(f"{number:.6g}") if abs(number) != float("inf") and number == number else None


def distributions(contents: Contents) -> str:
    """A chart of each measure over the results that have it."""
    numbers = {(case.center, case.case_id): n for n, case in enumerate(contents.cases)}
    names = [f"{case.center} {case.case_id}".strip() for case in contents.cases]
    charts = []
    for measure in DISTRIBUTIONS:
        groups = {
            result.name: [
                (numbers[row.get("center", ""), row["case_id"]], float(row[measure]))
                for row in result.rows
                if _plain(row.get(measure)) is not None and is_comparable(row)
            ]
            for result in contents.results
        }
        shown = dict([(name, points) for name, points in groups.items() if points][:MAX_GROUPS])
        if shown:
            column = COLUMNS[measure]
            head = f"{column.label}, {'higher' if column.better > 0 else 'lower'} is better"
            chart = draw_distribution(column, shown, names)
            charts.append(f"<figure><figcaption>{head}</figcaption>{chart}</figure>")
    if not charts:
        return ""
    told = "A dot is a case (click: open it), the box goes from quartile to quartile, "
    told += "the line is the median."
    if any(len(result.rows) > MAX_DOTS for result in contents.results):
        told += f" Of more than {MAX_DOTS} cases every so many are drawn."
    if len(contents.results) > MAX_GROUPS:
        told += f" The first {MAX_GROUPS} of {len(contents.results)} results are drawn."
    return f'<p class="hint">{told}</p><div class="charts">{"".join(charts)}</div>'


def table_html(table: ReportTable) -> str:
    """A table of `reproduce/` with its notes folded away."""
    sheets = "".join(sheet_html(sheet) for sheet in table.sheets)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    folded = f"<details><summary>Notes</summary><ul>{notes}</ul></details>" if notes else ""
    return f"<article><h3>{escape(table.title)}</h3>{sheets}{folded}</article>"


def sheet_html(sheet: Sheet) -> str:
    """One sheet: its groups' headings are rows of their own."""
    width = len(sheet.header)
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in sheet.header)
    body = []
    for group in sheet.groups:
        if group.heading:
            heading = f'<th scope="rowgroup" colspan="{width}">{escape(group.heading)}</th>'
            body.append(f'<tr class="group">{heading}</tr>')
        for line in group.lines:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in line[1:])
            body.append(f'<tr><th scope="row">{escape(line[0])}</th>{cells}</tr>')
    caption = f"<caption>{escape(sheet.title)}</caption>" if sheet.title else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(sheet.title)}"><table>'
        f"{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def curves_html(contents: Contents) -> str:
    """The charts of the trainings, and which are left out."""
    drawn = [(curve, draw_curve(curve)) for curve in contents.curves]
    figures = "".join(
        f"<figure><figcaption>{escape(curve.title)}"
        f"{escape(f', {curve.unit}' if curve.unit else '')}</figcaption>{chart}</figure>"
        for curve, chart in drawn
        if chart
    )
    note = f"<p>{escape(contents.curves_note)}</p>" if contents.curves_note else ""
    return f'{note}<div class="charts">{figures}</div>' if figures else ""


def facts_html(contents: Contents) -> str:
    """What the page was made of: facts, and the networks' checksums."""
    facts = [(name, escape(text)) for name, text in contents.facts.items()]
    facts += [
        (f"sha256 of {name}", f"<code>{escape(digest)}</code>")
        for name, digest in contents.checkpoints.items()
    ]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{text}</dd>" for name, text in facts)
    return f"<dl>{items}</dl>" if items else ""


def script_safe(data: Any) -> str:
    """JSON that no parser of HTML takes for markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@functools.cache
def niivue_script() -> str:
    """The viewer's script, as its authors published it. Raises ValueError where it is not."""
    path = HERE / "vendor" / f"niivue-{NIIVUE}.umd.js.gz"
    content = gzip.decompress(path.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    if digest != NIIVUE_SHA256:
        raise ValueError(f"{path}: has sha256 {digest}, not {NIIVUE_SHA256}; check it out again")
    return content.decode("utf-8")


def _asset(name: str) -> str:
    return (HERE / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
