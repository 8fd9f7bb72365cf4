"""An experiment: one timestamp, one folder of settings, and the configuration of each training."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.run_folders import new_time
from reproduce.experiments.presets import PRESETS
from utils.config import parse_config, to_plain
from utils.files import write_json
from utils.stages import STAGES, Config, with_variant

NOTE = "experiment.json"  # in the experiment's folder


@dataclass(frozen=True)
class Plan:
    """What all cells of one experiment share.

    `options`, `stage_options`: what the user gave for the train scripts, beyond the preset.
    """

    centers: Path = Path("centers.toml")
    checkpoints: Path = Path("checkpoints")
    cache: Path = Path("cache")
    holdout: float = 0.1  # of each source center's patients, for the protocol `honest`
    options: tuple[str, ...] = ()
    stage_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preset: str = "paper"
    time: str = field(default_factory=new_time)  # in the name of every run folder

    def config(self, stage: str, method: str = "ours", variant: str = "Ours") -> Config:
        """The settings of a training: the paper's, then the preset's, then the user's.

        Without its data and seed. Exits with a message where the user's cannot be read.
        """
        words = (*self.options, *self.stage_options.get(stage, ()))
        config = _config(self.preset, stage, method, variant, words)
        own = {"centers": self.centers, "checkpoints": self.checkpoints, "cache": self.cache}
        return replace(config, holdout=self.holdout, time=self.time, **own)


@functools.lru_cache(maxsize=1000)
def _config(preset: str, stage: str, method: str, variant: str, words: tuple[str, ...]) -> Config:
    base = PRESETS[preset].apply(Config(STAGES[stage], method=method))
    config = parse_config(base.stage, words, base)
    return replace(config, stage=with_variant(config.stage, variant))


def read_experiment(folder: Path) -> Plan | None:
    """The experiment that `note_experiment` noted there; None where there is none.

    Raises ValueError where the note cannot be read.
    """
    path = folder / NOTE
    if not path.is_file():
        return None
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        paths = {name: Path(plain.pop(name)) for name in ("centers", "checkpoints", "cache")}
        options = tuple(plain.pop("options"))
        stage_options = {name: tuple(words) for name, words in plain.pop("stage_options").items()}
        return Plan(**paths, options=options, stage_options=stage_options, **plain)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: is not the note of an experiment ({error}); restore it, or give another folder"
        ) from error


def note_experiment(folder: Path, plan: Plan) -> None:
    """Write the experiment's timestamp and its newest settings into `folder`."""
    write_json(folder / NOTE, to_plain(plan))
