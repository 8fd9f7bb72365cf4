"""What only trains (heads beside the network) survives a kill, as the network does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from methods import METHODS
from tests._baseline import killed_and_resumed
from tests.conftest import same
from utils.config import Config


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snr", "lanet_style", "hog", "dam"])
def test_heads_that_only_train_survive_a_kill_to_the_bit(
    name: str,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config("tumor_fine", method=name, epochs=2)
    whole, resumed = killed_and_resumed(config, METHODS[name], tmp_path, monkeypatch)
    assert any(key.startswith("auxiliary.") for key in whole.weights)
    assert same(whole.weights, resumed.weights)
    assert whole.log == resumed.log
    assert not any("C/" in row["cases"] for row in whole.log)  # the target's
