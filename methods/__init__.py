"""METHODS: the one list of what can be trained; adding a method is one file and one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from methods.base import Method, MethodSettings
from methods.bigaug import BigAug
from methods.bl import Baseline
from methods.cutout import Cutout
from methods.dam import DAM
from methods.dart import Dart
from methods.dcac import Dcac
from methods.dofe import Dofe
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
from utils.settings import from_plain, override
from utils.stages import Stage

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
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name]


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
    own = method_class(method).default_settings(stage)
    return Config(stage, own if settings is None else override(own, settings), method, **values)


def build_method(config: Config, sources: Sequence[str] = ()) -> Method:
    """The method that `config.method` names, with new networks; a ValueError lists the choices."""
    return method_class(config.method)(config, sources)


def config_from_plain(plain: Mapping[str, Any]) -> Config:
    """The inverse of `to_plain` for a `Config`; an unknown or missing key is a ValueError."""
    values = dict(plain)
    for name in ("stage", "settings", "method"):
        if name not in values:
            raise ValueError(f"not a configuration of this version: no {name!r}")
    built = from_plain(method_class(values["method"]).Settings, values["settings"])
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
    "METHODS",
    "Method",
    "MethodSettings",
    "build_method",
    "config_from_plain",
    "make_config",
    "method_class",
    "read_config",
]
