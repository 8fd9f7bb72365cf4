"""What trainings and evaluations read: synthetic centers that are drawn, cases that are prepared.

Both are done with all processors before anything else, so that no GPU waits for them and no two
trainings do them twice.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from data.centers import load_centers
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PrepareSettings
from reproduce.experiments.cells import Step
from reproduce.experiments.plan import Plan
from reproduce.experiments.presets import Phantoms
from utils.commands import to_arguments

MAX_WORKERS = 16  # a full CT takes some 2 GB while it is resampled


@dataclass(frozen=True)
class Drawing:
    """Synthetic centers to draw in a folder."""

    out: Path
    phantoms: Phantoms

    name = "draw_centers"

    @property
    def command(self) -> str:
        """What a user can paste, from the root."""
        which = self.phantoms
        shares = {"lesion_free": which.lesion_free or None}
        options = to_arguments({**vars(which), **shares, "workers": count_workers()})
        return shlex.join(["python", "data/phantom/make.py", str(self.out), *options])


@dataclass(frozen=True)
class Preparation:
    """Cases to resample to one voxel size. `only`: names of centers; (): all. `workers`: 0: all."""

    centers: Path = Plan.centers
    only: tuple[str, ...] = ()
    cache: Path = Plan.cache
    spacing: tuple[float, float, float] = (1.5, 0.8, 0.8)  # mm (z, y, x)
    workers: int = 0

    @property
    def name(self) -> str:
        """Its own among the steps of an experiment."""
        return f"prepare_{'x'.join(f'{length:g}' for length in self.spacing)}"

    @property
    def command(self) -> str:
        """What a user can paste, from the root."""
        options = {**vars(self), "workers": self.workers or None}
        return shlex.join(["python", "reproduce/prepare.py", *to_arguments(options)])


def draw(request: Drawing) -> Path:
    """Draw what is not there yet; returns centers.toml. ValueError where other cases are there."""
    return request.phantoms.draw(request.out, count_workers())


def prepare(request: Preparation) -> None:
    """Fill the cache. Raises ValueError for an unknown center or data that cannot be read."""
    centers = load_centers(request.centers)
    names = request.only or tuple(centers)
    unknown = [name for name in names if name not in centers]
    if unknown:
        raise ValueError(f"--only {' '.join(unknown)}: choose from {', '.join(centers)}")
    settings = PrepareSettings(spacing=request.spacing)
    workers = request.workers or count_workers()
    found = prepare_centers([centers[n] for n in names], request.cache, settings, workers)
    for name, cases in found.items():
        print(f"{name}: {len(cases)} cases in {request.cache}", flush=True)


def preparations_of(steps: Iterable[Step]) -> dict[Step, Preparation]:
    """What each step needs prepared: for one voxel size, the centers of all steps with it."""
    by_spacing: dict[tuple[float, ...], Preparation] = {}
    spacing_of = {}
    for step in steps:
        config = step.training.config
        spacing_of[step] = config.spacing
        before = by_spacing.setdefault(
            config.spacing,
            Preparation(config.centers, (), config.cache, config.spacing),
        )
        names = (*before.only, *config.sources, str(config.target))
        by_spacing[config.spacing] = replace(before, only=tuple(dict.fromkeys(names)))
    return {step: by_spacing[spacing] for step, spacing in spacing_of.items()}


def count_workers() -> int:
    """A process for each processor that this process may use, at most `MAX_WORKERS`."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
