"""An experiment: one timestamp, one folder of settings, and the configuration of each training."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.command_line import parse_config
from engine.run_folders import new_time
from methods import make_config
from reproduce.experiments.presets import PRESETS
from utils.commands import default_path
from utils.config import Config, StoppedError
from utils.files import read_json, write_json
from utils.settings import from_plain, to_plain
from utils.stages import STAGES

NOTE = "experiment.json"  # in the experiment's folder


@dataclass(frozen=True)
class Plan:
    """What all cells of one experiment share.

    `options`, `stage_options`, `method_options`: what the user gave for the train scripts, beyond
    the preset: for all of them, for those of a stage, for those of a method.
    """

    centers: Path = default_path("centers.toml")
    checkpoints: Path = default_path("checkpoints")
    cache: Path = default_path("cache")
    holdout: float = 0.1  # of each source center's patients, for the threshold `source-val`
    options: tuple[str, ...] = ()
    stage_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    method_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preset: str = "paper"
    time: str = field(default_factory=new_time)  # in the name of every run folder

    def config(self, stage: str, method: str) -> Config:
        """The settings of a training: the paper's, then the preset's, then the user's.

        Without its data and seed. Exits with a message for what the method does not have.
        """
        words = [*self.options, *self.stage_options.get(stage, ())]
        words += self.method_options.get(method, ())
        return replace(
            _config(self.preset, stage, method, tuple(words)),
            centers=self.centers,
            checkpoints=self.checkpoints,
            cache=self.cache,
            holdout=self.holdout,
            time=self.time,
        )


@functools.lru_cache(maxsize=1000)
def _config(preset: str, stage: str, method: str, words: tuple[str, ...]) -> Config:
    base = PRESETS[preset].apply(make_config(STAGES[stage], method))
    return parse_config(base.stage, words, base)


def read_experiment(folder: Path) -> Plan | None:
    """The experiment that `note_experiment` noted there; None where there is none.

    Raises ValueError where the note cannot be read.
    """
    path = folder / NOTE
    if not path.is_file():
        return None
    try:
        plain = read_json(path, "restore it or give another folder")
        for kind in ("stage_options", "method_options"):
            plain[kind] = {name: tuple(words) for name, words in plain[kind].items()}
        return from_plain(Plan, plain)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not the note of an experiment ({error}); restore it or give another folder"
        ) from error


def note_experiment(folder: Path, plan: Plan) -> None:
    """Write the experiment's timestamp and its newest settings into `folder`.

    Raises StoppedError where another call has begun an experiment there meanwhile.
    """
    before = read_experiment(folder)
    if before is not None and before.time != plan.time:
        raise StoppedError(f"{folder}: another call has begun an experiment here; call again")
    write_json(folder / NOTE, to_plain(plan))
