"""The first lines of docs/results.md: is Ours above BL on unseen centers, where, and how sure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reproduce.analysis.benchmark import CLAIM_DSC, MODULES
from reproduce.analysis.compare import MEAN, Line
from reproduce.analysis.layout import show_p
from reproduce.analysis.page import NOT_MEASURED, Page, head
from reproduce.analysis.paper_tables import TABLE5, TABLE5_COARSE
from reproduce.analysis.shift import BASELINE, WHOLE

STAGE_TABLES = {"coarse": TABLE5_COARSE.name, "fine": TABLE5.name}
UNKNOWN = f"Whether {WHOLE} is {CLAIM_DSC} Dice points above {BASELINE}: {NOT_MEASURED}."
Place = tuple[str, str]  # stage, threshold


@dataclass(frozen=True)
class Gains:
    """What the rows have more than BL: DSC lines that were compared, by stage and threshold."""

    lines: Mapping[tuple[str, str, str, str], Line]  # stage, threshold, row, center or "mean"
    centers: tuple[str, ...]

    @property
    def means(self) -> dict[Place, Line]:
        """The mean over centers of Ours - BL, wherever it is measured."""
        return {p[:2]: x for p, x in self.lines.items() if p[2:] == (WHOLE, MEAN)}

    @property
    def places(self) -> list[Place]:
        """Both stages with every threshold that one of them has."""
        thresholds = dict.fromkeys(threshold for _, threshold in self.means)
        return [(stage, threshold) for stage in STAGE_TABLES for threshold in thresholds]


def read_gains(page: Page, name: str) -> Gains:
    """The gains of an experiment; none where it is not exported."""
    found = page.experiment(name)
    if found is None:
        return Gains({}, ())
    lines = {
        (stage, line.threshold, line.row, line.center): line
        for stage, table in STAGE_TABLES.items()
        for line in found.lines(table)
        if line.metric == "dsc" and line.gain is not None
    }
    return Gains(lines, found.targets)


def show_verdict(page: Page, name: str) -> str:
    """Whether Ours is above BL, and how sure that is, in two sentences."""
    gains = read_gains(page, name)
    if not gains.means:
        return UNKNOWN
    sure = sureness_sentence(gains)
    return f"{verdict_sentence(gains)} {sure[0].upper()}{sure[1:]}"


def show_claim(page: Page, name: str) -> str:
    """Whether the paper's claim comes out: in words, then a line for each stage and threshold."""
    gains = read_gains(page, name)
    if not gains.means:
        return UNKNOWN
    parts = [
        f"**{verdict_sentence(gains)}**\n",
        f"- How sure: {sureness_sentence(gains)}",
        f"- Against the paper: {paper_sentence(gains)}",
        f"- For which shift: {centers_sentence(gains)}",
        f"- Each module alone, after the fine stage: {modules_sentence(gains)}\n",
        *claim_table(gains),
    ]
    return "\n".join(parts)


def counted_interval(line: Line) -> tuple[float, float] | None:
    """A gain's interval over trainings and cases; over cases where there is one training.

    None where there are too few cases.
    """
    for low, high in (
        (line.gain_low_trainings, line.gain_high_trainings),
        (line.gain_low, line.gain_high),
    ):
        if low is not None and high is not None:
            return low, high
    return None


def verdict(line: Line) -> str:
    """What a gain's interval says, in words."""
    interval = counted_interval(line)
    if interval is None:
        return f"not tested against {BASELINE}, for too few cases,"
    low, high = interval
    if low > 0:
        return f"above {BASELINE}"
    return f"below {BASELINE}" if high < 0 else f"not shown to differ from {BASELINE}"


def verdict_sentence(gains: Gains) -> str:
    """Ours is above BL after the coarse stage (threshold ...) and not shown to differ after ..."""
    means = gains.means
    verdicts = {place: verdict(line) for place, line in means.items()}
    parts = [f"{text} {_name_places(places)}" for text, places in _grouped(verdicts).items()]
    missing = [place for place in gains.places if place not in means]
    parts += [f"{NOT_MEASURED} {_name_places(missing)}"] if missing else []
    return f"On unseen centers {WHOLE} is {'; '.join(parts)}."


def sureness_sentence(gains: Gains) -> str:
    """What the intervals hold, by how many trainings there are."""
    trainings = [line.seeds or 0 for line in gains.means.values()]
    least, most = min(trainings), max(trainings)
    rows = f"of {BASELINE} and {WHOLE} for each center"
    alone = "the scatter of cases only, and another training may come out otherwise"
    if most == 1:
        return f"one training {rows}, so the 95 % intervals hold {alone}."
    number = str(most) if least == most else f"{least} to {most}"
    text = f"{number} trainings {rows}; 95 % intervals over trainings and cases"
    return f"{text}, but with one training they hold {alone}." if least == 1 else f"{text}."


def paper_sentence(gains: Gains) -> str:
    """Whether the paper's gain, which is the fine stage's, is in the intervals of that stage."""
    sides = {
        place: _side(interval)
        for place, line in gains.means.items()
        if place[0] == "fine" and (interval := counted_interval(line)) is not None
    }
    parts = [
        f"{side} the interval{'s' * (len(found) > 1)} of threshold {_listed([t for _, t in found])}"
        for side, found in _grouped(sides).items()
    ]
    paper = f"its gain after the fine stage, +{CLAIM_DSC} on three hospitals"
    return f"{paper}, is {_listed(parts)}." if parts else f"{paper}; {NOT_MEASURED} here."


def centers_sentence(gains: Gains) -> str:
    """Where Ours is above BL and where it is not, center by center, for one threshold a stage."""
    first = {stage: threshold for stage, threshold in reversed(gains.means)}
    sentences = []
    for stage in (stage for stage in STAGE_TABLES if stage in first):
        verdicts = {
            (stage, center): verdict(gains.lines[stage, first[stage], WHOLE, center])
            for center in gains.centers
        }
        parts = [
            f"{text} on {_listed([center for _, center in places])}"
            for text, places in _grouped(verdicts).items()
        ]
        of = f"after the {stage} stage (threshold {first[stage]})"
        sentences.append(f"{of} {', '.join(parts)}")
    return f"{'; '.join(sentences)}."


def modules_sentence(gains: Gains) -> str:
    """What each module has more than BL, by threshold; which are not measured; trainings."""
    parts, missing = [], list(MODULES)
    trained: dict[str, int | None] = {}
    for threshold in dict.fromkeys(threshold for _, threshold in gains.means):
        lines = {row: gains.lines.get(("fine", threshold, row, MEAN)) for row in MODULES}
        shown = [f"{row} {gain_text(line)}" for row, line in lines.items() if line is not None]
        parts += [f"threshold {threshold}: {', '.join(shown)}"] if shown else []
        missing = [row for row in missing if lines[row] is None]
        trained |= {row: line.seeds for row, line in lines.items() if line is not None}
    parts += [f"{NOT_MEASURED} ({', '.join(missing)})"] if missing else []
    for count in dict.fromkeys(trained.values()):
        rows = _listed([row for row, own in trained.items() if own == count])
        each = "one training each, so intervals over cases alone"
        parts.append(f"of {rows} {each if count == 1 else f'{count} trainings each'}")
    return f"{'; '.join(parts)}."


def claim_table(gains: Gains) -> list[str]:
    """The lines of a Markdown table: a stage and threshold each, a column for each center."""
    header = [f"{WHOLE} - {BASELINE}: stage, threshold", "mean [95 %]", *gains.centers]
    lines = head([*header, "p, Wilcoxon over cases", "p, mixed model", "trainings"])
    for place, mean in gains.means.items():
        of_centers = (gains.lines[*place, WHOLE, center] for center in gains.centers)
        cells = [", ".join(place), *map(gain_text, (mean, *of_centers))]
        cells += [show_p(mean.p), show_p(mean.mixed_p), str(mean.seeds)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def gain_text(line: Line) -> str:
    """A gain in Dice points with the interval that counts."""
    interval = counted_interval(line)
    text = f"{round(line.gain or 0.0, 2) + 0.0:+.2f}"
    return text if interval is None else f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _side(interval: tuple[float, float]) -> str:
    low, high = interval
    if high < CLAIM_DSC:
        return "above"
    return "below" if low > CLAIM_DSC else "in"


def _name_places(places: Iterable[Place]) -> str:
    """After the coarse stage (threshold target and source-val) and the fine stage (...)."""
    stages: dict[str, list[str]] = {}
    for stage, threshold in places:
        stages.setdefault(stage, []).append(threshold)
    named = [f"the {stage} stage (threshold {_listed(found)})" for stage, found in stages.items()]
    return f"after {_listed(named)}"


def _grouped(verdicts: Mapping[Place, str]) -> dict[str, list[Place]]:
    """Verdict -> where it holds, in the order in which they come."""
    groups: dict[str, list[Place]] = {}
    for place, text in verdicts.items():
        groups.setdefault(text, []).append(place)
    return groups


def _listed(parts: Sequence[str]) -> str:
    """A, B and C."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
