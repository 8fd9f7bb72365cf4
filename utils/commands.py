"""Commands that a user can paste: the stages' scripts, their arguments, their default paths."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def default_path(name: str) -> Path:
    """Where a file or folder that no option names is: in the repository, from any folder.

    From the repository's root itself it is `name` alone, so that messages and commands stay short.
    """
    return Path(name) if Path.cwd() == ROOT else ROOT / name


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
