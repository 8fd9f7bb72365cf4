"""CONTRIBUTING.md's worked example, executed word for word."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from engine.command_line import parse_config
from methods import METHODS
from tests.conftest import ROOT, read_log, train
from utils.config import Config
from utils.stages import TUMOR_FINE


def example() -> str:
    """The Python of the document's section on adding a method."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return str(code)


def test_the_example_is_short() -> None:
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) < 30


def test_the_example_trains_and_hides_a_cube(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("methods_hide")
    monkeypatch.setitem(__import__("sys").modules, "methods_hide", module)
    exec(compile(example(), "methods/hide.py", "exec"), module.__dict__)
    monkeypatch.setitem(METHODS, "hide", module.Hide)
    config = parse_config(TUMOR_FINE, ["--method", "hide", "--side", "8"])
    assert config.settings.side == 8
    run = train(tiny_config("tumor_fine", method="hide", settings={"side": 4}))
    assert [row["seg"] != "" for row in read_log(run)] == [True] * 3
    nothing = {"rotation_probability": 0.0, "mirror_probability": 0.0, "noise_probability": 0.0}
    settings = {"side": 4, **{f"augment.{name}": value for name, value in nothing.items()}}
    method = module.Hide(tiny_config("tumor_fine", method="hide", settings=settings))
    image = torch.rand(1, 1, 8, 16, 24)
    label = torch.zeros(1, 1, 8, 16, 24, dtype=torch.uint8)
    hidden, _ = method.augment(image.clone(), label, (1.0, 1.0, 1.0), torch.Generator())
    assert (hidden != image).sum() == 4**3
