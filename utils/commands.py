"""Commands that a user can paste: the scripts of the stages and their arguments."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.config import Evaluation

ROOT = Path(__file__).resolve().parents[1]


def script(kind: str, stage: str) -> str:
    """The path of a stage's script from the root; kind is "train" or "evaluate"."""
    return f"{kind}_{stage.partition('_')[0]}/{kind}_sh_{stage}.py"


def to_arguments(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options by field name as arguments; None and () are left out, a bool is a switch.

    >>> to_arguments({"sources": ("A", "B"), "target": "C", "roi_source": None, "slices": False})
    ('--sources', 'A', 'B', '--target', 'C', '--no-slices')
    """
    words: list[str] = []
    for name, value in options.items():
        if value is None or value == ():
            continue
        if isinstance(value, bool):
            words.append(("--" if value else "--no-") + name.replace("_", "-"))
            continue
        values = value if isinstance(value, (tuple, list)) else (value,)
        words += ["--" + name.replace("_", "-"), *map(str, values)]
    return tuple(words)


def command_line(kind: str, stage: str, arguments: Sequence[str]) -> str:
    """The command of a stage's script, from the current folder."""
    return shlex.join(["python", os.path.relpath(ROOT / script(kind, stage)), *arguments])


def evaluation_arguments(evaluation: Evaluation) -> tuple[str, ...]:
    """The arguments of an evaluate script that give `evaluation`: what differs from the defaults.

    >>> evaluation_arguments(Evaluation("tumor_fine", target="C", time=("20260101-000000",)))
    ('--target', 'C', '--time', '20260101-000000')
    """
    default = Evaluation(evaluation.stage)
    given = {k: v for k, v in vars(evaluation).items() if v != getattr(default, k)}
    return to_arguments(given)
