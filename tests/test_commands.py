"""Arguments that the code writes are arguments that the scripts read."""

from __future__ import annotations

from engine.command_line import parse_config
from utils.commands import to_arguments
from utils.stages import TUMOR_FINE


def test_switches_lists_and_numbers_come_through_a_scripts_command_line() -> None:
    argv = to_arguments(
        {
            "slices": False,
            "tensorboard": True,
            "jitter_voxels": (-2, 10),
            "epochs": 7,
            "sources": ("A", "B"),
            "target": None,
            "time": None,
        }
    )
    config = parse_config(TUMOR_FINE, argv)
    assert (config.stage.slices, config.tensorboard) == (False, True)
    assert (config.stage.jitter_voxels, config.stage.epochs) == ((-2, 10), 7)
    assert (config.sources, config.target) == (("A", "B"), None)
