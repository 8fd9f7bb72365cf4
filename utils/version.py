"""Which software this is, and what it is not: every output says both."""

from __future__ import annotations

import tomllib

from utils.commands import ROOT

NOTICE = "research use only; no medical device"


def software() -> str:
    """Name and version, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['name']} {project['version']}"
