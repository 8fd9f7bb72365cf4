"""The only argparse of training and evaluation: command line -> `Config` or `Evaluation`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from methods import (
    EXTERNAL,
    METHODS,
    check_method,
    check_stage,
    make_config,
    method_names,
    unused_settings,
    without_unused,
)
from utils.arguments import Seed, Workers, timestamp, whole
from utils.commands import to_arguments
from utils.config import (
    CASES,
    DEFAULT_METHOD,
    PRECISIONS,
    ROI_SOURCES,
    SMALLEST_INPUT,
    THRESHOLDS,
    Config,
    Evaluation,
    check_config,
)
from utils.scripts import ArgumentParser, run_script
from utils.settings import Range, flatten, option_name, override
from utils.stages import FOLDS, Stage, stage_named

__all__ = [
    "config_arguments",
    "evaluation_arguments",
    "parse_config",
    "parse_evaluation",
    "run_script",
]


def parse_config(
    stage: Stage, argv: Sequence[str] | None = None, base: Config | None = None
) -> Config:
    """Command line of a train script -> `Config`; exits with a message for wrong values.

    The options of the method that `--method` names are those of its settings. `base`: what holds
    where the command line says nothing, `stage` its stage; None: the defaults.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    default = make_config(stage, _method_named(argv)) if base is None else base
    parser = ArgumentParser(
        description=f"Train the stage {stage.name}.",
        epilog="Settings of another method: --method NAME --help.",
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    parts = {
        "config": ("run", default),
        "stage": (f"stage {stage.name}", default.stage),
        "settings": (f"method {default.method}", default.settings),
    }
    for part, (title, owner) in parts.items():
        _add_settings(parser.add_argument_group(title), owner, part)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse(parser, default, unknown)
    given: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for name, value in vars(namespace).items():
        part, _, setting = name.partition(":")
        given[part][setting] = value
    if base is not None and given["config"].get("method", base.method) != base.method:
        parser.error(f"--method {given['config']['method']}: {base.method} is trained here")
    try:
        if base is None:
            _refuse_unused(default, {**given["config"], **given["stage"]})
        config = dataclasses.replace(
            override(default, given["config"]),
            stage=override(default.stage, given["stage"]),
            settings=override(default.settings, given["settings"]),
        )
        if base is not None:  # settings of many methods together
            config = without_unused(config)
        check_config(config)
        check_method(config)
    except ValueError as error:
        parser.error(str(error))
    return config


def parse_evaluation(stage: Stage, argv: Sequence[str] | None = None) -> Evaluation:
    """Command line of an evaluate script -> `Evaluation`."""
    default = Evaluation(stage.name)
    parser = ArgumentParser(
        description=f"Evaluate the stage {stage.name} on centers that its training never saw. "
        "Model, threshold and margins come from the checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--centers", type=Path, default=default.centers, help="the file that lists the centers")
    add("--sources", nargs="+", default=(), help="only runs trained on exactly these centers")
    add("--target", help="center to evaluate on; none: the target of each newest run")
    times = "timestamp of the run, and of those of the stages before; none: the newest finished"
    add("--time", nargs="+", type=timestamp, default=(), help=times)
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
    add("--method", choices=method_names(), default=default.method, help="runs of this method")
    add("--seed", type=Seed, help="only runs of this seed")
    add("--fold", choices=FOLDS, help="runs of cross-validation inside --target")
    released = "state dict of the authors' released network, evaluated in place of a run"
    add("--released", type=Path, metavar="FILE", help=released)
    add("--checkpoints", type=Path, default=default.checkpoints, help="where run folders are")
    add("--cache", type=Path, default=default.cache, help="where prepared cases are kept")
    add("--device", default="auto", help="cpu, cuda, cuda:1, or auto: a GPU if there is one")
    arithmetic = "arithmetic; auto: fp32 on a CPU, fp16 on a GPU"
    add("--precision", choices=PRECISIONS, default="auto", help=arithmetic)
    windows = "cut larger crops into windows of so many voxels; none: only where memory runs out"
    add("--window-voxels", type=whole(Range(least=SMALLEST_INPUT)), metavar="N", help=windows)
    add("--workers", type=Workers, default=default.workers, help="processes that prepare cases")
    leaked = "leave out, and count, scans that trained the run, in whatever center they are listed"
    add("--drop-leaked", action="store_true", help=f"{leaked}; without: they are refused")
    given = vars(parser.parse_args(argv))
    given |= {name: tuple(given[name]) for name in ("sources", "time")}
    try:
        if given["method"] in EXTERNAL:
            check_stage(given["method"], EXTERNAL[given["method"]], stage.name)
        return Evaluation(stage.name, **given)
    except ValueError as error:
        parser.error(str(error))


def config_arguments(config: Config) -> tuple[str, ...]:
    """The arguments that give `config`: what differs from the stage's and the method's defaults.

    `parse_config(STAGES[config.stage.name], config_arguments(config)) == config`.
    """
    stage = stage_named(config.stage.name)
    default = make_config(stage, config.method)
    words: list[str] = []
    if config.method != DEFAULT_METHOD:
        words += ["--method", config.method]
    pairs = (
        (config, default),
        (config.stage, default.stage),
        (config.settings, default.settings),
    )
    for owner, usual in pairs:
        before = {name: value for name, _, value in flatten(usual) if name != "method"}
        after = {name: value for name, _, value in flatten(owner) if name in before}
        for name, value in after.items():
            if value != before[name]:
                words += _as_words(option_name(name), value, before[name])
    return tuple(words)


def evaluation_arguments(evaluation: Evaluation) -> tuple[str, ...]:
    """The arguments that give `evaluation`: what differs from the defaults.

    `parse_evaluation(STAGES[evaluation.stage], evaluation_arguments(evaluation)) == evaluation`.
    """
    default = Evaluation(evaluation.stage)
    given = {k: v for k, v in vars(evaluation).items() if v != getattr(default, k)}
    return to_arguments(given)


def _as_words(option: str, value: Any, usual: Any) -> list[str]:
    if isinstance(value, bool):
        return [option if value else "--no-" + option[2:]]
    if isinstance(value, Mapping):
        return [option, *(f"{k}={v}" for k, v in value.items() if usual.get(k) != v)]
    if isinstance(value, tuple):
        return [option, *map(str, value)]
    return [option, str(value)]


def _method_named(argv: Sequence[str]) -> str:
    """The method on a command line, or the default where none or an unknown one is named."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--method", nargs="?", default=DEFAULT_METHOD)
    name = parser.parse_known_args(argv)[0].method
    return name if name in method_names() else DEFAULT_METHOD


def _refuse_unused(config: Config, given: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that would say nothing to an external method."""
    options = [option_name(name) for name in given if name in unused_settings(config)]
    if options:
        own = ", ".join(option_name(name) for name, _, _ in flatten(config.settings))
        raise ValueError(
            f"{' '.join(options)}: method {config.method} has its own training and takes no such "
            f"setting; its settings are {own}"
        )


def _refuse(parser: argparse.ArgumentParser, config: Config, unknown: Sequence[str]) -> NoReturn:
    """Exit with what is unknown, and, for a setting of other methods, with what this one has."""
    option = next((word for word in unknown if word.startswith("--")), unknown[0])
    option = option.partition("=")[0]
    every: dict[str, Any] = {**METHODS, **EXTERNAL}
    others = [
        name
        for name, method in every.items()
        if any(
            option in (option_name(s), "--no-" + option_name(s)[2:])
            for s, _, _ in flatten(method.default_settings(config.stage))
        )
    ]
    if not others:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    own = ", ".join(option_name(name) for name, _, _ in flatten(config.settings))
    parser.error(
        f"{option}: method {config.method} has no such setting ({', '.join(others)} have); "
        f"its settings are {own}"
    )


def _add_settings(group: argparse._ArgumentGroup, owner: Any, part: str) -> None:
    """One option per setting; what is not given stays out of the namespace."""
    for name, item, default in flatten(owner):
        text = f"{item.metadata['help']}\n(default: {_shown(default)}; source: "
        text = (text + f"{item.metadata['source']})").replace("%", "%%")
        options: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
        choices = method_names() if name == "method" else item.metadata["choices"]
        if choices:
            options["choices"] = choices
        options.update(_value_options(default))
        if not choices and not isinstance(default, (bool, Mapping)):
            options["metavar"] = name.rpartition(".")[2].upper()
        if str(item.type) == "tuple[int, ...]":
            options["nargs"] = "*"
        group.add_argument(option_name(name), dest=f"{part}:{name}", **options)


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
