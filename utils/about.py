"""What every file that leaves the project says of itself."""

from __future__ import annotations

NAME = "dual-task-synergy"  # of pyproject.toml
VERSION = "0.1.0"  # of pyproject.toml and CITATION.cff; a test compares them
NOTICE = "Research use only; no medical device."
LICENSE = "Apache-2.0"


def software() -> str:
    """Name and version, as every output states them."""
    return f"{NAME} {VERSION}"
