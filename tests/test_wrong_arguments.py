"""Every setting of every script and method refuses what cannot work: one line and status 2."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import engine.command_line
from data.phantom.make import main as make_phantoms
from engine.command_line import parse_config, parse_evaluation
from engine.training import fit
from methods import METHODS, make_config
from reproduce.experiments.request import parse_request
from tests._sources import is_script, module_name, source_files
from tests.conftest import ROOT, Tiny
from utils.arguments import timestamp
from utils.config import MAX_WORKERS
from utils.scripts import ArgumentParser
from utils.settings import ENORMOUS, Range, flatten, is_number, option_name
from utils.stages import STAGES, TUMOR_FINE

NEVER = ("nan", "inf", "-inf", "1e999", "1" + "0" * 30, "9" * 5000, "text", "", " ")


NEVER_A_TIME = ("", ".", "..", "a/b", "a b", "x" * 300, "\u00e4", "-" * 65, "a\n")


def refusal(capsys: pytest.CaptureFixture[str], parse: Any, *argv: Any) -> str:
    """The one line with which a command line is refused."""
    with pytest.raises(SystemExit) as ended:
        parse(*argv)
    text = capsys.readouterr()
    assert ended.value.code == 2, argv
    assert text.out == ""
    assert text.err.startswith("error: "), argv
    assert text.err.count("\n") == 1, argv
    return text.err


def outside(allowed: Range, whole: bool) -> Iterator[str]:
    """Numbers just outside a range."""
    step = 1 if whole else 1e-6
    if allowed.least is not None:
        yield str(allowed.least - step)
    if allowed.above is not None:
        yield str(allowed.above)
    if allowed.below is not None:
        yield str(allowed.below)
    else:
        yield str(allowed.highest + (1 if whole else max(allowed.highest * 1e-6, 1e-6)))


def settings() -> dict[tuple[str, str], tuple[str, str, Any, Any]]:
    """Every setting of all stages and methods once: method, stage, field and default."""
    found: dict[tuple[str, str], tuple[str, str, Any, Any]] = {}
    for method in METHODS:
        for name, stage in STAGES.items():
            config = make_config(stage, method)
            for owner in (config, stage, config.settings):
                for setting, item, default in flatten(owner):
                    key = (type(owner).__name__, setting)
                    found.setdefault(key, (method, name, item, default))
    return found


SETTINGS = settings()


def test_the_walk_covers_what_there_is() -> None:
    assert len(SETTINGS) > 150
    assert len({method for method, *_ in SETTINGS.values()}) > 12


@pytest.mark.parametrize("key", SETTINGS, ids=[" ".join(key) for key in SETTINGS])
def test_every_setting_refuses_what_cannot_work(
    key: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    method, stage, item, default = SETTINGS[key]
    if not isinstance(default, Mapping):  # building a network takes 0.1 s; it may be left no number
        monkeypatch.setattr(engine.command_line, "check_method", lambda config: None)
    option = option_name(key[1])
    for words in wrong_words(item, default):
        text = refusal(
            capsys, parse_config, STAGES[stage], ["--method", method, *_given(option, words)]
        )
        assert option in text or "unrecognized arguments" in text, words
    assert os.listdir(tmp_path) == []


def wrong_words(item: Any, default: Any) -> Iterator[list[str]]:
    """Values that a setting must not take; for a tuple, one bad number at each place."""
    allowed = item.metadata["allowed"]
    if isinstance(default, bool):
        yield ["yes"]
    elif item.metadata["choices"]:
        yield from (["nonsense"], [""])
    elif is_number(default):
        yield from ([word] for word in (*NEVER, *outside(allowed, isinstance(default, int))))
    elif isinstance(default, tuple) and default:
        yield from _wrong_tuples(allowed, default, "..." in str(item.type))
    elif isinstance(default, Mapping):
        for word in ("nan", "inf", "-1", "text", "null", "true", "[1]", '"1"'):
            yield [f"{next(iter(default), 'x')}={word}"]
        yield from (["nonsense=1"], ["no pair"])


def _wrong_tuples(
    allowed: Range, default: tuple[Any, ...], any_length: bool
) -> Iterator[list[str]]:
    whole = isinstance(default[0], int)
    for place in range(len(default)):
        for word in (*NEVER, *outside(allowed, whole)):
            yield [*map(str, default[:place]), word, *map(str, default[place + 1 :])]
    if not any_length:
        yield [*map(str, default), str(default[-1])]
        yield [*map(str, default[:-1])]
    if allowed.rising and default[0] != default[-1]:
        yield [*map(str, default[::-1])]


def _given(option: str, words: list[str]) -> list[str]:
    return [f"{option}={words[0]}"] if len(words) == 1 else [option, *words]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--mirror-axes", "0", "3"], "at most 2"),
        (["--mirror-axes", "1", "1"], "twice"),
        (["--window-voxels", "1", "1"], "--window-voxels 1 1: at least 8"),
        (["--window-voxels", "20", "20", "--stride", "3"], "at least 24"),
        (["--jitter-voxels", "-1000", "-500"], "at least -20"),
        (["--seed", str(2**64)], "below"),
        (["--spacing", "1e9", "1", "1"], "at most 20"),
        (["--time", "."], "--time .: letters"),
        (["--time", "x" * 300], "64 at most"),
        (["--width", "12"], "a multiple of 8"),
    ],
)
def test_wrong_lines_of_a_training_are_said_with_the_range(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, parse_config, TUMOR_FINE, argv)


# the other scripts


class _Found(Exception):
    """The parser of a script."""


def parser_of(module: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a script makes, caught before it parses."""

    def catch(self: argparse.ArgumentParser, *args: Any, **named: Any) -> None:
        raise _Found(self)

    script = importlib.import_module(module)
    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(ArgumentParser, name, catch)
    monkeypatch.setattr(sys, "argv", [module])
    starts = ("parse_demo", "parse", "main")
    for name in starts:
        if hasattr(script, name):
            with pytest.raises(_Found) as found:
                getattr(script, name)()
            monkeypatch.undo()
            return found.value.args[0]
    raise AssertionError(f"{module}: has none of {starts}")


OWN = ("run_step", "train_sh", "evaluate_sh")
ALONE = ("launcher.py", "run_onnx.py")  # run where no other file of ours is
SCRIPTS = [
    module_name(path)
    for path in source_files()
    if is_script(path)
    and not path.name.startswith(OWN)
    and path.name not in ALONE
    and path.parts[-2] != "benchmarks"
]
SHARED = {  # their parsers are made elsewhere
    "reproduce.run": parse_request,
    **{f"reproduce.table{n}": None for n in (3, 4, 5, 6)},
}


@pytest.mark.parametrize("module", [m for m in SCRIPTS if m not in SHARED])
def test_every_number_of_every_script_refuses_what_cannot_work(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if module == "reproduce.table2":
        monkeypatch.setattr("reproduce.table2.main", _run_table2, raising=False)
    refuse_all(parser_of(module, monkeypatch), capsys)


def _run_table2() -> None:
    from reproduce.analysis.paper_tables import TABLE2
    from reproduce.analysis.run_table import run_table

    run_table(TABLE2)


@pytest.mark.parametrize("parse", [lambda: parse_request(""), lambda: parse_evaluation(TUMOR_FINE)])
def test_every_number_of_experiments_and_evaluations_too(
    parse: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def catch(self: argparse.ArgumentParser, *args: Any, **named: Any) -> None:
        raise _Found(self)

    with monkeypatch.context() as patch:
        patch.setattr(ArgumentParser, "parse_args", catch)
        with pytest.raises(_Found) as found:
            parse()
    assert refuse_all(found.value.args[0], capsys) >= 4


def refuse_all(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> int:
    """Try wrong values of each option that is no path and no name; how many there are."""
    tried = 0
    for action in parser._actions:
        action.required = False
        if not action.option_strings or action.type in (None, Path) or action.nargs == 0:
            continue
        option, tried = action.option_strings[-1], tried + 1
        for word in NEVER_A_TIME if action.type is timestamp else (*NEVER, "-1"):
            alone = action.nargs in (None, "?")
            given = [f"{option}={word}"] if alone else [option, word]
            assert option in refusal(capsys, parser.parse_args, given), (option, word)
    return tried


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--what", "table2", "--minutes", "nan"], "--minutes nan: a finite number"),
        (["--what", "table2", "--seeds", str(2**70)], "--seeds"),
        (["--what", "table2", "--holdout", "1"], "below 1"),
        (["--what", "benchmark", "--targets", "NOWHERE"], "--targets NOWHERE: choose from SYN-"),
        (["--what", "demo", "--options=--epochs 0"], "--epochs 0: at least 1"),
        (["--what", "table2", "--options", "'"], "quotation"),
    ],
)
def test_an_experiment_is_refused_before_anything_is_drawn(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert said in refusal(capsys, parse_request, "", [*argv, "--out", str(out)])
    assert not out.exists()


def test_zero_cases_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["make.py", str(tmp_path / "out"), "--cases", "0"])
    assert "--cases 0: at least 1" in refusal(capsys, make_phantoms)
    assert not (tmp_path / "out").exists()


def test_no_number_is_without_an_end() -> None:
    assert Range().fault((ENORMOUS,)) == ""
    assert Range().fault((ENORMOUS * 2,)) == "at most 1000000000"
    assert Range(most=4).fault((10**400,)) == "at most 4"
    assert MAX_WORKERS < ENORMOUS


def test_a_stage_that_cannot_learn_from_its_cases_leaves_no_run_folder(
    tiny: Tiny, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    config = parse_config(
        STAGES["tumor_coarse"], tiny.args(folder, "--validate-epochs", "1", "--patience", "1")
    )
    with pytest.raises(ValueError, match="needs held-out cases"):
        fit(config)
    assert not folder.exists() or os.listdir(folder) == []
    assert ROOT.is_dir()
