"""The only argparse of training and evaluation: command line -> frozen configuration -> JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from utils.stages import (
    FOLDS,
    LOSS_TERMS,
    STAGES,
    Config,
    Stage,
    setting_names,
    with_variant,
)

ROI_SOURCES = ("seg", "mask")
THRESHOLDS = ("target", "source-val")
CASES = ("test", "heldout")
# What a number may be, by setting.
ABOVE_ZERO = ("width", "lr", "spacing", "steepness", "temperature", "threshold", "rescale_range")
AT_LEAST = {
    **dict.fromkeys(("epochs", "views", "accumulate", "stride", "rounds", "window_voxels"), 1),
    **dict.fromkeys(("workers", "seed", "lr_power", "weight_decay", "checkpoint_seconds"), 0),
    **dict.fromkeys(("margin_voxels", "min_round_voxels", "rescale_probability"), 0),
    "agreement_dice": 0,
    "max_voxels": 8**3,  # the network's smallest input
    **dict.fromkeys(("holdout", "validate_epochs", "patience"), 0),
}
AT_MOST_ONE = ("rescale_probability", "agreement_dice")
LOW_AND_HIGH = ("jitter_z_fraction", "jitter_voxels", "rescale_range")
Request = TypeVar("Request")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluate script was asked to do; every other setting comes from the checkpoint.

    `threshold`: where the tumor's comes from: "target", the target center's in centers.toml, or
    "source-val", the best on held-out source cases. `cases`: "test", all of the target (or a
    fold's), or "heldout", those of the sources that were not trained on. `window_voxels`: the
    largest input that goes through the network at once; None: any. `released`: a state dict of the
    authors' network, in place of a run. Raises ValueError where these do not fit together.
    """

    stage: str
    centers: Path = Path("centers.toml")
    sources: tuple[str, ...] = ()
    target: str | None = None
    checkpoints: Path = Path("checkpoints")
    cache: Path = Path("cache")
    time: tuple[str, ...] = ()
    roi_source: str = "seg"
    threshold: str = "target"
    cases: str = "test"
    method: str = "ours"
    seed: int | None = None
    fold: str | None = None
    released: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    window_voxels: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        smallest = AT_LEAST["max_voxels"]
        needs_run = {
            "--cases heldout": self.cases != "test",
            "--threshold source-val": self.threshold != "target",
            "--fold": self.fold is not None,
            "--seed": self.seed is not None,
            "--method": self.method != "ours",
        }
        of_run = [option for option, given in needs_run.items() if given]
        rules = (
            (
                self.threshold in THRESHOLDS,
                f"--threshold {self.threshold}: {' or '.join(THRESHOLDS)}",
            ),
            (self.cases in CASES, f"--cases {self.cases}: {' or '.join(CASES)}"),
            (
                self.cases == "test" or self.threshold == "target",
                "--threshold source-val: is chosen on the cases of --cases heldout; leave one out",
            ),
            (
                self.window_voxels is None or self.window_voxels >= smallest,
                f"--window-voxels {self.window_voxels}: at least {smallest}",
            ),
            (
                self.released is None or self.target is not None,
                "--released: needs --target, the center to evaluate on",
            ),
            (
                self.released is None or not of_run,
                f"{', '.join(of_run)}: not with --released, which is no run of this project",
            ),
        )
        for holds, message in rules:
            if not holds:
                raise ValueError(message)


def parse_config(stage: Stage, argv: Sequence[str] | None = None) -> Config:
    """Command line of a train script -> `Config`; exits with a message for wrong values."""
    parser = argparse.ArgumentParser(
        description=f"Train the stage {stage.name}.", formatter_class=argparse.RawTextHelpFormatter
    )
    run = parser.add_argument_group("run")
    _add_settings(run, Config, Config(stage))
    _add_settings(parser.add_argument_group(f"stage {stage.name}"), Stage, stage)
    given = vars(parser.parse_args(argv))
    if "weights" in given:
        given["weights"] = {**stage.weights, **given["weights"]}
    own = {name: given.pop(name) for name in setting_names(Stage) if name in given}
    stage = dataclasses.replace(stage, **own)
    config = Config(with_variant(stage, stage.variant), **given)
    try:
        check_config(config)
    except ValueError as error:
        parser.error(str(error))
    return config


def parse_evaluation(stage: Stage, argv: Sequence[str] | None = None) -> Evaluation:
    """Command line of an evaluate script -> `Evaluation`."""
    default = Evaluation(stage.name)
    parser = argparse.ArgumentParser(
        description=f"Evaluate the stage {stage.name} on centers that its training never saw. "
        "Model, threshold and margins come from the checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--centers", type=Path, default=default.centers, help="the file that lists the centers")
    add("--sources", nargs="+", default=(), help="only runs trained on exactly these centers")
    add("--target", help="center to evaluate on; none: the target of each newest run")
    times = "timestamp of the run, and of those of the stages before; none: the newest finished"
    add("--time", nargs="+", default=(), help=times)
    add("--roi-source", choices=ROI_SOURCES, default="seg", help="pancreas ROI: segmented or label")
    add(
        "--threshold",
        choices=THRESHOLDS,
        default=default.threshold,
        help="the tumor's: the target center's in centers.toml, as the paper chose it (with the "
        "target in view), or the best on held-out source cases (after --cases heldout)",
    )
    tested = (
        "the target's (of a fold: its test cases), or those of the sources held out of training"
    )
    add("--cases", choices=CASES, default=default.cases, help=tested)
    add("--method", default=default.method, help="runs of this method")
    add("--seed", type=int, help="only runs of this seed")
    add("--fold", choices=FOLDS, help="runs of cross-validation inside --target")
    released = "state dict of the authors' released network, evaluated in place of a run"
    add("--released", type=Path, metavar="FILE", help=released)
    add("--checkpoints", type=Path, default=default.checkpoints, help="where run folders are")
    add("--cache", type=Path, default=default.cache, help="where prepared cases are kept")
    add("--device", default="auto", help="cpu, cuda, cuda:1, or auto: a GPU if there is one")
    arithmetic = "arithmetic; auto: fp32 on a CPU, bf16 (or fp16) on a GPU"
    add("--precision", choices=("auto", "bf16", "fp16", "fp32"), default="auto", help=arithmetic)
    windows = "cut larger crops into windows of so many voxels; none: only where memory runs out"
    add("--window-voxels", type=int, metavar="N", help=windows)
    add("--workers", type=int, default=default.workers, help="processes that prepare cases")
    given = vars(parser.parse_args(argv))
    given |= {name: tuple(given[name]) for name in ("sources", "time")}
    try:
        return Evaluation(stage.name, **given)
    except ValueError as error:
        parser.error(str(error))


class StoppedError(RuntimeError):
    """Work that cannot go on though no setting is wrong; the message says why and what to do."""


def run_script(action: Callable[[Request], Any], request: Request) -> None:
    """Run a script's work; what the user can mend ends it with one message and status 2."""
    try:
        action(request)
    except (ValueError, FileNotFoundError, StoppedError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def check_config(config: Config) -> None:
    """Raise ValueError, naming the setting and what it may be, where a value cannot work."""
    stage, width = config.stage, config.width
    for owner in (config, stage):
        _check_ranges(owner)
    _check_weights(stage.weights)
    twice = sorted({name for name in config.sources if config.sources.count(name) > 1})
    rules = (
        (width % 8 == 0, f"--width {width}: a multiple of 8"),
        (stage.threshold < 1, f"--threshold {stage.threshold}: between 0 and 1"),
        (
            config.patience == 0 or config.validate_epochs > 0,
            f"--patience {config.patience}: needs --validate-epochs",
        ),
        (config.holdout < 1, f"--holdout {config.holdout}: 0 or more, below 1"),
        (not twice, f"--sources: {', '.join(twice)} stands there twice"),
        (
            config.target not in config.sources,
            f"--target {config.target}: a center of --sources cannot be the unseen one",
        ),
        (
            config.time is None or re.fullmatch(r"[\w.-]+", config.time),
            f"--time {config.time}: letters, digits, _, . and - only; it names a folder",
        ),
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(message)


def _check_ranges(owner: Config | Stage) -> None:
    """Every number finite and in its range; for a tuple, each of its numbers."""
    for name in setting_names(type(owner)):
        value = getattr(owner, name)
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if _is_number(v)]
        shown = f"--{name.replace('_', '-')} {' '.join(str(number) for number in numbers)}"
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"{shown}: a finite number")
        if name in ABOVE_ZERO and min(numbers) <= 0:
            raise ValueError(f"{shown}: above 0")
        if name in AT_LEAST and min(numbers) < AT_LEAST[name]:
            raise ValueError(f"{shown}: at least {AT_LEAST[name]}")
        if name in AT_MOST_ONE and max(numbers) > 1:
            raise ValueError(f"{shown}: at most 1")
        if name in LOW_AND_HIGH and numbers[0] > numbers[1]:
            raise ValueError(f"{shown}: the lower number first")


def _check_weights(weights: Mapping[str, Any]) -> None:
    if not set(weights) <= set(LOSS_TERMS):
        raise ValueError(f"--weights {' '.join(weights)}: terms are {', '.join(LOSS_TERMS)}")
    for term, weight in weights.items():
        if not _is_number(weight) or not 0 <= weight < math.inf:
            raise ValueError(f"--weights {term}={weight}: a number, 0 or more")
    if not any(weights.values()):
        raise ValueError("--weights: at least one above 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def to_plain(value: Any) -> Any:
    """Dataclasses, paths, tuples and mappings as JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def config_from_plain(plain: Mapping[str, Any]) -> Config:
    """The inverse of `to_plain` for a `Config`; an unknown or missing key is a ValueError."""
    values = dict(plain)
    try:
        stage = _from_plain(Stage, values.pop("stage"))
        return _from_plain(Config, {**values, "stage": stage})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a configuration of this version: {error}") from error


def read_config(path: Path) -> Config:
    """Read config.json of a run folder."""
    return config_from_plain(json.loads(path.read_text(encoding="utf-8")))


def stage_named(name: str) -> Stage:
    """The stage of that name; a ValueError names the choices."""
    if name not in STAGES:
        raise ValueError(f"unknown stage {name!r}; choose from {', '.join(STAGES)}")
    return STAGES[name]


def _from_plain(cls: type, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    out = {}
    for name, value in values.items():
        if isinstance(value, list):
            value = tuple(value)
        out[name] = Path(value) if hints.get(name) is Path else value
    return cls(**out)


def _add_settings(group: argparse._ArgumentGroup, cls: type, defaults: Any) -> None:
    """One option per field that has a `help`; what is not given stays out of the namespace."""
    for item in dataclasses.fields(cls):
        if "help" not in item.metadata:
            continue
        default = getattr(defaults, item.name)
        text = f"{item.metadata['help']}\n(default: {_shown(default)}; source: "
        text = (text + f"{item.metadata['source']})").replace("%", "%%")
        options: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS, "dest": item.name}
        if item.metadata["choices"]:
            options["choices"] = item.metadata["choices"]
        options.update(_value_options(default))
        if item.type == "tuple[int, ...]":
            options["nargs"] = "*"
        flag = "--set" if item.name == "settings" else "--" + item.name.replace("_", "-")
        group.add_argument(flag, **options)


def _value_options(default: Any) -> dict[str, Any]:
    if isinstance(default, bool):
        return {"action": argparse.BooleanOptionalAction}
    if isinstance(default, Mapping):
        return {"action": _Pairs, "nargs": "+", "metavar": "KEY=VALUE"}
    if isinstance(default, tuple):
        kind = type(default[0]) if default else str
        return {"action": _Tuple, "nargs": len(default) or "+", "type": kind}
    if default is None:
        return {"type": str}
    return {"type": type(default) if not isinstance(default, Path) else Path}


def _shown(default: Any) -> str:
    if isinstance(default, Mapping):
        return " ".join(f"{key}={value:g}" for key, value in default.items()) or "none"
    if isinstance(default, tuple):
        return " ".join(str(item) for item in default) or "none"
    return "none" if default is None else str(default)


class _Tuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


class _Pairs(argparse.Action):
    """KEY=VALUE ...; each value is read as JSON where it is JSON, as text otherwise."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        pairs = dict(getattr(namespace, self.dest, {}))
        for item in values:
            key, equals, text = item.partition("=")
            if not equals:
                parser.error(f"{option} {item}: expected KEY=VALUE")
            try:
                pairs[key] = json.loads(text)
            except json.JSONDecodeError:
                pairs[key] = text
        setattr(namespace, self.dest, pairs)
