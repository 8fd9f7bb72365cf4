"""Checkpoints: what may be in them, how they are written, which files are refused."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch

from engine.checkpointing import FORMAT, load_checkpoint, save_checkpoint
from tests.conftest import ROOT
from utils.files import write_atomic, write_json, write_text
from utils.leftovers import remove_leftovers

CONTENT: dict[str, Any] = {
    "network": OrderedDict(weight=torch.arange(6.0).reshape(2, 3), steps=torch.tensor(3)),
    "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]},
    "config": {"sources": ["A", "B"], "target": None, "resume": True, "seed": 2022},
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
}


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, tensors included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run" / "last.pt", CONTENT)
    back = load_checkpoint(tmp_path / "run" / "last.pt")
    assert same(back, {"format": FORMAT, **CONTENT})


def test_a_checkpoint_needs_no_trust(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", CONTENT)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["config"]["seed"] == 2022


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Path("x"), "PosixPath"),
        (np.float64(1.0), "float64"),  # a subclass of float, but not one for weights_only
        (np.zeros(2), "ndarray"),
        ({1, 2}, "set"),
        (torch.__version__, "TorchVersion"),  # a subclass of str
        (signal.SIGTERM, "Signals"),  # a subclass of int
        (torch.device("cpu"), "device"),
        (len, "builtin_function_or_method"),
    ],
)
def test_anything_but_tensors_and_plain_types_is_refused_with_its_place(
    value: object, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(TypeError, match=rf"checkpoint\['a'\]\[1\]\['b'\] is a {name}"):
        save_checkpoint(path, {"a": [0, {"b": value}]})
    assert not path.exists()


def test_an_object_as_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a key of checkpoint"):
        save_checkpoint(tmp_path / "last.pt", {Path("x"): 1})  # type: ignore[dict-item]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"last\.pt.*train the stage"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_checkpoint_cut_short_anywhere_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    for length in [0, 1, 100, *range(200, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"last\.pt: not a readable checkpoint"):
            load_checkpoint(path)


def test_no_flipped_bit_gives_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(whole), size=300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            back = load_checkpoint(path)
        except ValueError:
            refused += 1
        else:
            assert same(back, {"format": FORMAT, **CONTENT})  # the bit was in the padding
    assert refused > 50


class Evil:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def test_foreign_files_are_refused_with_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.pt"
    foreign = [b"hello", json.dumps({"format": FORMAT}).encode(), pickle.dumps({"format": FORMAT})]
    for content in [*foreign, pickle.dumps(Evil()), bytes(range(256))]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"last\.pt: not a readable checkpoint"):
            load_checkpoint(path)
    torch.save({"format": FORMAT, "evil": Evil()}, path)
    with pytest.raises(ValueError, match=r"last\.pt: not a readable checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, {"format": 0}, [1, 2]])
def test_another_format_is_refused_with_its_name(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt: not a checkpoint of format 2"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_text(path, "old\n")

    def fail_half_way(handle: IO[bytes]) -> None:
        handle.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail_half_way)
    assert path.read_text() == "old\n"
    assert [item.name for item in tmp_path.iterdir()] == ["log.csv"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    code = (
        "import os, signal, sys; from pathlib import Path; from utils.files import *\n"
        "def write(handle):\n"
        "    handle.write(b'half'); handle.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(Path(sys.argv[1]), write)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert same(load_checkpoint(path), {"format": FORMAT, **CONTENT})
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]


def test_json_without_meaning_elsewhere_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": math.nan})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5}
