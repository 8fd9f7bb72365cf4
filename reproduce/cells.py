"""The cells of the tables: whose model, whose cases; what is there, the commands for the rest.

A cell is one evaluation (or four, for four-fold cross-validation). Tables, figures and
`reproduce/run.py` share cells by equality: Table V's Ours is Table III's F-Seg.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.centers import Center, load_centers
from utils.commands import command_line, script, to_arguments
from utils.config import parse_config, to_plain
from utils.evaluation import Row, read_cases
from utils.results import result_folder
from utils.runs import Run, find_runs
from utils.stages import N_FOLDS, STAGES, Config

SEED = Config(STAGES["tumor_fine"]).seed
# What may differ between a run and the plan that it is used for: where and how it was computed.
NOT_COMPARED = (
    *("centers", "checkpoints", "cache", "time", "resume", "device", "precision", "workers"),
    *("checkpoint_seconds", "tensorboard", "sources", "target", "fold"),
)


@dataclass(frozen=True)
class Cell:
    """One evaluation that a table shows."""

    stage: str
    target: str
    sources: tuple[str, ...]  # of the tumor stages; (target,) for cross-validation inside it
    variant: str = "Ours"
    method: str = "ours"
    roi_source: str = "seg"
    protocol: str = "paper"
    folds: bool = False
    seed: int = SEED


@dataclass(frozen=True)
class Step:
    """One command: the training or the evaluation of one stage."""

    kind: str  # "train" or "evaluate"
    stage: str
    argv: tuple[str, ...]
    needs: tuple[Step, ...] = ()

    @property
    def command(self) -> str:
        """What a user can paste, from the current folder."""
        return command_line(self.kind, self.stage, self.argv)

    @property
    def script(self) -> str:
        """The script, from the root."""
        return script(self.kind, self.stage)


@dataclass(frozen=True)
class Plan:
    """What all cells of one experiment share."""

    centers: Path = Path("centers.toml")
    checkpoints: Path = Path("checkpoints")
    cache: Path = Path("cache")
    holdout: float = 0.1  # of each source center's patients, for the protocol `honest`
    options: tuple[str, ...] = ()  # more arguments of every train script
    stage_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    device: str = "auto"


def lesion_centers(centers: Mapping[str, Center]) -> list[str]:
    """The centers that are tested in turn, in the order of centers.toml."""
    return [name for name, center in centers.items() if center.has_lesions]


def choose_targets(
    centers: Mapping[str, Center], asked: Sequence[str] | None, where: Path
) -> tuple[str, ...]:
    """The centers to test on: `asked`, or all with lesions. ValueError for one without, or none.

    `where`: the file that lists the centers, for the message.
    """
    there = lesion_centers(centers)
    unknown = [name for name in asked or () if name not in there]
    if unknown:
        raise ValueError(
            f"--targets {' '.join(unknown)}: choose from the centers with lesions of {where}: "
            f"{', '.join(there)}"
        )
    return tuple(asked or there)


def make_cell(centers: Mapping[str, Center], stage: str, target: str, **more: Any) -> Cell:
    """The cell of a target in the round robin, or inside it with `folds=True`.

    A pancreas stage is the same for each row of Table V and each protocol, so it is shared.
    """
    others = tuple(name for name in lesion_centers(centers) if name != target)
    if STAGES[stage].target == "pancreas":
        more |= {"variant": "Ours", "protocol": "paper", "roi_source": "seg"}
    return Cell(stage, target, (target,) if more.get("folds") else others, **more)


def find_folders(plan: Plan, cell: Cell) -> list[Path]:
    """The finished result folders of a cell: one, or one a fold; [] where any is missing."""
    folders = []
    for fold in range(N_FOLDS) if cell.folds else (None,):
        argv = _training(plan, cell, cell.stage, fold).argv
        runs = [r for r in _matching(plan, cell.stage, argv, strict=False) if r.done]
        asked = (cell.stage, cell.target, cell.roi_source, cell.protocol)
        found = [folder for run in runs if (folder := _finished(run, *asked)) is not None]
        folders += found[:1]
    return folders if len(folders) == (N_FOLDS if cell.folds else 1) else []


def read_cell(plan: Plan, cell: Cell) -> list[Row] | None:
    """The rows of a cell's cases.csv, each with its center; None where the cell is missing."""
    folders = find_folders(plan, cell)
    if not folders:
        return None
    return [
        row | {"center": cell.target}
        for folder in folders
        for row in read_cases(folder / "cases.csv")
    ]


def steps_of(plan: Plan, cell: Cell) -> tuple[Step, ...]:
    """Every step that fills a cell, each behind the steps that it needs."""
    steps: dict[Step, None] = {}
    for fold in range(N_FOLDS) if cell.folds else (None,):
        _collect(_evaluation(plan, cell, cell.stage, cell.protocol, fold), steps)
    return tuple(steps)


def is_done(plan: Plan, step: Step) -> bool:
    """Whether a step's result is there, made with the plan's options."""
    if step.kind == "train":
        return any(run.done for run in _matching(plan, step.stage, step.argv))
    asked = _options(step.argv)
    train = step.needs[0]
    for run in _matching(plan, train.stage, train.argv):
        if not run.done:
            continue
        protocol, roi_source = asked.get("protocol", "paper"), asked.get("roi-source", "seg")
        centers = [asked["target"]]
        if protocol == "heldout":
            centers = sorted({center for center, _ in run.heldout_cases})
        found = [_finished(run, step.stage, c, roi_source, protocol) for c in centers]
        if found and all(folder is not None for folder in found):
            return True
    return False


def missing_steps(plan: Plan, cells: Iterable[Cell]) -> list[Step]:
    """The steps of the cells that are not done, each once, behind the steps that they need."""
    todo = [cell for cell in cells if not find_folders(plan, cell)]
    steps = dict.fromkeys(step for cell in todo for step in steps_of(plan, cell))
    return [step for step in steps if not is_done(plan, step)]


def _evaluation(plan: Plan, cell: Cell, stage: str, protocol: str, fold: int | None) -> Step:
    """The evaluation of a stage for a cell, with all that it needs."""
    of_tumor = STAGES[stage].target == "tumor"
    if not of_tumor and protocol == "honest":
        protocol = "paper"
    options = _split_options(plan, cell, stage, fold)
    options |= {"roi_source": cell.roi_source if of_tumor and cell.roi_source != "seg" else None}
    options |= {"protocol": protocol if protocol != "paper" else None}
    options |= {"centers": plan.centers, "checkpoints": plan.checkpoints, "cache": plan.cache}
    needs = [_training(plan, cell, stage, fold)]
    previous = STAGES[stage].previous
    from_labels = cell.roi_source == "mask" and STAGES[stage].roi == "pancreas"
    if previous is not None and not from_labels:
        needs.append(_evaluation(plan, cell, previous, protocol, fold))
    if protocol == "honest":
        needs.append(_evaluation(plan, cell, stage, "heldout", fold))
    return Step("evaluate", stage, to_arguments(options), tuple(needs))


def _training(plan: Plan, cell: Cell, stage: str, fold: int | None) -> Step:
    options = _split_options(plan, cell, stage, fold)
    options |= {"holdout": plan.holdout if plan.holdout > 0 else None}
    options |= {"centers": plan.centers, "checkpoints": plan.checkpoints, "cache": plan.cache}
    more = (*plan.options, *plan.stage_options.get(stage, ()))
    return Step("train", stage, (*to_arguments(options), *more))


def _split_options(plan: Plan, cell: Cell, stage: str, fold: int | None) -> dict[str, Any]:
    sources = cell.sources if fold is None else ()
    of_tumor = STAGES[stage].target == "tumor"
    if fold is None and not of_tumor:
        centers = _centers(plan.centers.resolve())
        free = [name for name, center in centers.items() if not center.has_lesions]
        sources = tuple(name for name in centers if name in (*sources, *free))
    return {
        "sources": sources,
        "target": cell.target,
        "fold": fold,
        "variant": cell.variant if of_tumor and cell.variant != "Ours" else None,
        "method": cell.method if of_tumor and cell.method != "ours" else None,
        "seed": cell.seed,
    }


@functools.lru_cache(maxsize=8)
def _centers(path: Path) -> dict[str, Center]:
    return load_centers(path)


def _collect(step: Step, into: dict[Step, None]) -> None:
    for needed in step.needs:
        _collect(needed, into)
    into.setdefault(step)


def _options(argv: tuple[str, ...]) -> dict[str, str]:
    """Single values of an evaluation's arguments, by option."""
    return {
        word.removeprefix("--"): argv[i + 1] for i, word in enumerate(argv) if word.startswith("--")
    }


def _matching(plan: Plan, stage: str, argv: tuple[str, ...], strict: bool = True) -> list[Run]:
    """The runs that a train command has made, wherever they were computed; newest first.

    Unless `strict`, runs that hold out another part of the sources fit too: their results are
    as true, only the threshold of the protocol `honest` asks for held-out cases.
    """
    config = parse_config(STAGES[stage], argv)
    fold = None if config.fold is None else int(config.fold)
    runs = find_runs(
        plan.checkpoints,
        stage,
        method=config.method,
        variant=config.stage.variant,
        target=config.target,
        seed=config.seed,
        fold=fold,
    )
    sources = config.sources if fold is None else (config.target,)
    ignored = NOT_COMPARED if strict else (*NOT_COMPARED, "holdout")
    wanted = {k: v for k, v in to_plain(config).items() if k not in ignored}
    fitting = []
    for run in runs:
        made = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
        if set(run.sources) == set(sources) and wanted.items() <= made.items():
            fitting.append(run)
    return fitting


def _finished(run: Run, stage: str, center: str, roi_source: str, protocol: str) -> Path | None:
    folder = result_folder(run, stage, center, roi_source, protocol)
    return folder if (folder / "done").is_file() else None
