"""Charts as SVG without a script: distributions of a measure over the cases, curves of a training.

Colors are classes (`series0`, ...) that the page's style sheet fills, so that they follow the dark
mode; every mark has its numbers as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from report.columns import Column
from report.contents import Curve

WIDTH, LEFT, RIGHT, ROW_HEIGHT, AXIS_HEIGHT = 640, 190, 16, 46, 30
CURVE_HEIGHT = 220
MAX_POINTS = 200  # of a curve
MAX_DOTS = 300  # of a row: dots of more cases cover each other, and the page grows
Points = Sequence[tuple[int, float]]  # number of the case on the page, value


def draw_distribution(column: Column, groups: Mapping[str, Points], names: Sequence[str]) -> str:
    """A row for each group: a dot for each case, a box from quartile to quartile, the median.

    `names`: of the page's cases. A dot carries `data-case`, so that a click can open the case.
    """
    values = [value for points in groups.values() for _, value in points]
    top = 100.0 if column.label.endswith("(%)") else max([*values, 1e-9]) * 1.05
    height = ROW_HEIGHT * len(groups) + AXIS_HEIGHT
    scale = (WIDTH - LEFT - RIGHT) / top
    parts = [_axis(top, scale, height)]
    for row, (name, points) in enumerate(groups.items()):
        middle = ROW_HEIGHT * row + ROW_HEIGHT / 2
        parts.append(
            f'<text class="name" x="{LEFT - 12}" y="{middle + 4:.0f}" text-anchor="end">'
            f"{escape(_shorten(name))}<title>{escape(name)}</title></text>"
        )
        parts += _row(points, names, middle, scale, column)
    title = escape(f"{column.label} of each case")
    return _svg(title, height, "".join(parts))


def _row(
    points: Points, names: Sequence[str], middle: float, scale: float, column: Column
) -> list[str]:
    values = np.array([value for _, value in points])
    low, median, high = np.percentile(values, (25, 50, 75))
    parts = [
        f'<rect class="box" x="{LEFT + low * scale:.1f}" y="{middle - 13:.1f}" '
        f'width="{max((high - low) * scale, 1):.1f}" height="26" rx="3"/>',
        f'<line class="median" x1="{LEFT + median * scale:.1f}" x2="{LEFT + median * scale:.1f}" '
        f'y1="{middle - 15:.1f}" y2="{middle + 15:.1f}"><title>median {median:.{column.digits}f}, '
        f"quartiles {low:.{column.digits}f} and {high:.{column.digits}f}, mean "
        f"{values.mean():.{column.digits}f}, {len(values)} values</title></line>",
    ]
    for number, (case, value) in enumerate(thin_out(points)):
        shift = (number * 7 % 11 - 5) * 1.6  # apart from each other, the same in every page
        parts.append(
            f'<circle class="dot" data-case="{case}" cx="{LEFT + value * scale:.1f}" '
            f'cy="{middle + shift:.1f}" r="3.5"><title>{escape(names[case])}: '
            f"{value:.{column.digits}f}</title></circle>"
        )
    return parts


def thin_out(points: Points, most: int = MAX_DOTS) -> Points:
    """At most so many points, evenly through their order by value, lowest and highest kept."""
    if len(points) <= most:
        return points
    ordered = sorted(points, key=lambda point: point[1])
    return [ordered[int(n)] for n in np.linspace(0, len(ordered) - 1, most).round()]


def draw_curve(curve: Curve) -> str:
    """A training's lines over its epochs, with a legend; too many points are thinned out."""
    shown = {name: _finite(curve, values) for name, values in curve.lines.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return ""
    xs = [x for points in shown.values() for x, _ in points]
    ys = [y for points in shown.values() for _, y in points]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    ticks = log_ticks(min(ys), max(ys)) if curve.log else nice_ticks(min([*ys, 0.0]), max(ys))
    forward = math.log10 if curve.log else float
    y_low, y_high = forward(min([ticks[0], *ys])), forward(max([ticks[-1], *ys]))
    bottom, left, top = CURVE_HEIGHT - 28, 52, 10

    def place(x: float, y: float) -> tuple[float, float]:
        right = left + (x - x_low) / (x_high - x_low) * (WIDTH - left - RIGHT)
        return right, bottom - (forward(y) - y_low) / (y_high - y_low or 1) * (bottom - top)

    parts = [
        f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{place(x_low, tick)[1]:.1f}" '
        f'y2="{place(x_low, tick)[1]:.1f}"/><text x="{left - 6}" '
        f'y="{place(x_low, tick)[1] + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in ticks
    ]
    parts += [
        f'<text x="{place(tick, 1)[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        for tick in nice_ticks(x_low, x_high)
        if x_low <= tick <= x_high and tick == round(tick)  # epochs are whole
    ]
    legend = []
    for number, (name, points) in enumerate(shown.items()):
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(
            f'<polyline class="line series{number % 8}" points="{text}"><title>{escape(name)}: '
            f"{points[-1][1]:.4g} at the end</title></polyline>"
        )
        if len(points) == 1:  # a line of one point shows nothing
            x, y = place(*points[0])
            parts.append(
                f'<circle class="end series{number % 8}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            )
        key = f'<svg viewBox="0 0 26 8"><path class="line series{number % 8}" d="M0 4H26"/></svg>'
        legend.append(f"<span>{key}{escape(name)}</span>")
    title = escape(f"{curve.title}, over epochs")
    return f'{_svg(title, CURVE_HEIGHT, "".join(parts))}<p class="legend">{"".join(legend)}</p>'


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `count` of them."""
    rough = max(high - low, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around two positive numbers; every second or third where there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    step = max((last - first) // 4, 1)
    return [10.0**power for power in range(first, last + 1, step)]


def _finite(curve: Curve, values: Sequence[float]) -> list[tuple[float, float]]:
    points = [
        (float(x), float(y))
        for x, y in zip(curve.epochs, values, strict=True)
        if math.isfinite(y) and (y > 0 or not curve.log)
    ]
    every = math.ceil(len(points) / MAX_POINTS)
    return points[::every] if every > 1 else points


def _axis(top: float, scale: float, height: int) -> str:
    ticks = [tick for tick in nice_ticks(0, top) if tick <= top]
    return "".join(
        f'<line class="grid" x1="{LEFT + tick * scale:.1f}" x2="{LEFT + tick * scale:.1f}" y1="4" '
        f'y2="{height - AXIS_HEIGHT + 4}"/><text x="{LEFT + tick * scale:.1f}" '
        f'y="{height - 8}" text-anchor="middle">{tick:g}</text>'
        for tick in ticks
    )


def _shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _svg(title: str, height: int, inner: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'
        f"{inner}</svg>"
    )
