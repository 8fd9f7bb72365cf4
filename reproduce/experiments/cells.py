"""The cells of the tables: whose model, whose cases, and the steps that fill them.

A cell is one evaluation (or four, for four-fold cross-validation). Tables, figures and
`reproduce/run.py` share cells by equality: Table V's Ours is Table III's F-Seg.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.case import Center
from data.centers import load_centers
from utils.commands import command_line, script, to_arguments
from utils.config import Config
from utils.stages import N_FOLDS, STAGES

SEED = Config(STAGES["tumor_fine"]).seed


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


def steps_of(plan: Plan, cell: Cell) -> tuple[Step, ...]:
    """Every step that fills a cell, each behind the steps that it needs."""
    steps: dict[Step, None] = {}
    for step in evaluations_of(plan, cell):
        _collect(step, steps)
    return tuple(steps)


def evaluations_of(plan: Plan, cell: Cell) -> list[Step]:
    """The evaluations that are a cell: one, or one a fold."""
    folds = range(N_FOLDS) if cell.folds else (None,)
    return [_evaluation(plan, cell, cell.stage, cell.protocol, fold) for fold in folds]


def evaluation_before(step: Step) -> Step | None:
    """The evaluation of the stage before, which an evaluation reads; None where it reads none."""
    return next((other for other in step.needs[1:] if other.stage != step.stage), None)


def trainings_of(step: Step) -> tuple[Step, ...]:
    """The trainings whose runs an evaluation reads: its stage's, and those of the stages before."""
    before = evaluation_before(step)
    return (step.needs[0], *(() if before is None else trainings_of(before)))


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
