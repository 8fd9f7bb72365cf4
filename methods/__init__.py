"""METHODS: the one list of what can be trained; adding a method is one file and one line."""

from __future__ import annotations

from methods.base import Method
from methods.ours import Ours
from utils.stages import Config

METHODS: dict[str, type[Method]] = {"ours": Ours}


def build_method(config: Config) -> Method:
    """The method that `config.method` names; a ValueError lists the choices."""
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; choose from {', '.join(METHODS)}")
    return METHODS[config.method](config)
