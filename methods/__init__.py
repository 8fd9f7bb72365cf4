"""METHODS: the one list of what can be trained; adding a method is one file and one line.

EXTERNAL (methods/external/) lists the systems that are not ours: they train themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from methods.base import Method, MethodSettings
from methods.bigaug import BigAug
from methods.bl import Baseline
from methods.cutout import Cutout
from methods.dam import DAM
from methods.dart import Dart
from methods.dcac import Dcac
from methods.dofe import Dofe
from methods.external import EXTERNAL
from methods.external.base import NOT_USED, WHOLE, ExternalMethod, check_stage
from methods.gin import Gin
from methods.hog import HOG
from methods.labelwise import LabelWise
from methods.lanet_style import LanetStyle
from methods.mixstyle import MixStyle
from methods.ours import ABLATIONS, Ours
from methods.randconv import RandConv
from methods.saml import Saml
from methods.snr import SNR
from utils.config import DEFAULT_METHOD, Config
from utils.files import read_json
from utils.settings import flatten, from_plain, override
from utils.stages import STAGE_NAMES, Stage, stage_named

METHODS: dict[str, type[Method]] = {
    "bl": Baseline,
    **ABLATIONS,
    # Table VI, in its order
    "snr": SNR,
    "dcac": Dcac,
    "lanet_style": LanetStyle,
    "bigaug": BigAug,
    "hog": HOG,
    "cutout": Cutout,
    "saml": Saml,
    "dam": DAM,
    "dofe": Dofe,
    "mixstyle": MixStyle,
    "dart": Dart,
    "randconv": RandConv,
    "ours": Ours,
    # beyond the paper
    "gin": Gin,
    "labelwise": LabelWise,
}


def method_class(name: str) -> type[Method]:
    """The method of that name; a ValueError lists the choices."""
    if name in EXTERNAL:
        raise ValueError(f"method {name} trains itself (methods/external/), not in our loop")
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose from {', '.join(method_names())}")
    return METHODS[name]


def method_names() -> tuple[str, ...]:
    """What --method takes: our methods, then the external ones."""
    return (*METHODS, *EXTERNAL)


def stage_of(method: str, stage: Stage) -> Stage:
    """The stage as a method has it: an external one reads other stages before it, or none."""
    return EXTERNAL[method].stage(stage) if method in EXTERNAL else stage


def stages_of(method: str) -> tuple[str, ...]:
    """The names of the stages that a method has, in order."""
    return EXTERNAL[method].stages if method in EXTERNAL else STAGE_NAMES


def build_external(config: Config) -> ExternalMethod:
    """The external method that `config.method` names; ValueError for a wrong stage or setting."""
    return EXTERNAL[config.method](config)


def check_method(config: Config, sources: Sequence[str] = ()) -> None:
    """Raise ValueError where a method cannot be built with its settings; no weight is made."""
    if config.method in EXTERNAL:
        build_external(config)
        return
    with torch.device("meta"):
        build_method(config, sources)


def make_config(
    stage: Stage,
    method: str = DEFAULT_METHOD,
    settings: Mapping[str, Any] | None = None,
    **values: Any,
) -> Config:
    """A configuration with the method's own settings of this stage.

    `settings`: changes of them by dotted name ("augment.noise_std"); a ValueError names one that
    the method does not have. `values`: other fields of `Config`.
    """
    kind = EXTERNAL[method] if method in EXTERNAL else method_class(method)
    own = kind.default_settings(stage)
    own = own if settings is None else override(own, settings)
    return Config(stage_of(method, stage), own, method, **values)


def unused_settings(config: Config) -> frozenset[str]:
    """The settings of `Config` and `Stage` that say nothing to an external method."""
    if config.method not in EXTERNAL:
        return frozenset()
    margin = {"margin_voxels"} if EXTERNAL[config.method].roi != WHOLE else set()
    return frozenset({*NOT_USED, *(name for name, _, _ in flatten(config.stage))} - margin)


def without_unused(config: Config) -> Config:
    """The configuration with what its method does not use as it is by default."""
    unused = unused_settings(config)
    default = make_config(stage_named(config.stage.name), config.method)

    def kept(owner: Any, usual: Any) -> Any:
        there = {name for name, _, _ in flatten(owner)} & unused
        return replace(owner, **{name: getattr(usual, name) for name in there})

    return replace(kept(config, default), stage=kept(config.stage, default.stage))


def build_method(config: Config, sources: Sequence[str] = ()) -> Method:
    """The method that `config.method` names, with new networks; a ValueError lists the choices."""
    return method_class(config.method)(config, sources)


def config_from_plain(plain: Mapping[str, Any]) -> Config:
    """The inverse of `to_plain` for a `Config`; an unknown or missing key is a ValueError."""
    values = dict(plain)
    for name in ("stage", "settings", "method"):
        if name not in values:
            raise ValueError(f"not a configuration of this version: no {name!r}")
    name = values["method"]
    kind: Any = EXTERNAL[name] if name in EXTERNAL else method_class(name)
    built: Any = from_plain(kind.Settings, values["settings"])
    return from_plain(Config, {**values, "settings": built})


def read_config(path: Path) -> Config:
    """Read config.json of a run folder. Raises ValueError, naming it, where it is damaged."""
    cure = "restore it, or train again"
    plain = read_json(path, cure)
    try:
        return config_from_plain(plain)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: is damaged or of another version ({error}); {cure}") from error


__all__ = [
    "EXTERNAL",
    "METHODS",
    "ExternalMethod",
    "Method",
    "MethodSettings",
    "build_external",
    "build_method",
    "check_method",
    "check_stage",
    "config_from_plain",
    "make_config",
    "method_class",
    "method_names",
    "read_config",
    "stage_of",
    "stages_of",
    "unused_settings",
    "without_unused",
]
