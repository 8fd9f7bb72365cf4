"""The state of a training run: built from the seed, saved, loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from data.splits import Split
from methods import Method
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import to_plain
from utils.device import World
from utils.runlog import RunLog
from utils.runs import Run, environment
from utils.stages import Config


@dataclass
class State:
    """Everything that a step changes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    heldout_dsc: list[float] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain types, for a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "heldout_dsc": self.heldout_dsc,
        }

    def load(self, content: dict[str, Any]) -> None:
        """Go back to what `to_plain` gave."""
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.step = content["step"]
        self.heldout_dsc = list(content["heldout_dsc"])


def build_state(method: Method, config: Config, device: torch.device) -> State:
    """Network, Adam (Sec. IV-C) and loss scaler, from the seed."""
    torch.manual_seed(config.seed)
    network = method.build_network().to(device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    return State(network, optimizer, scaler)


def load_state(state: State, run: Run, world: World) -> None:
    """Go back to the run's last state; a ValueError where other processes shared its samples."""
    device = next(state.network.parameters()).device
    content = load_checkpoint(run.checkpoint, device)
    if content["processes"] != world.size:
        raise ValueError(
            f"{run.folder}: trained by {content['processes']} processes, now there are "
            f"{world.size}: start as many again, or a new run with --no-resume"
        )
    state.load(content)


class Saver:
    """Writes the checkpoint of a run, and holds its log."""

    def __init__(self, config: Config, run: Run, split: Split, state: State, world: World) -> None:
        self.config, self.run, self.split, self.state, self.world = (
            config, run, split, state, world,
        )  # fmt: skip
        self.log = RunLog(run.folder, config, state.step, active=world.first)
        self._last = time.monotonic()

    def __call__(self, force: bool = False) -> None:
        """Save now, or, unless forced, when `checkpoint_seconds` have passed."""
        due = time.monotonic() - self._last >= self.config.checkpoint_seconds
        if not self.world.first or not (force or due):
            return
        content = {
            **self.state.to_plain(),
            "processes": self.world.size,
            "config": to_plain(self.config),
            "split": to_plain(self.split),
            "split_hash": self.split.hash,
            "environment": environment(),
            "random_state": {"seed": self.config.seed, "torch": torch.get_rng_state()},
        }
        self.log.flush()
        save_checkpoint(self.run.checkpoint, content)
        self._last = time.monotonic()
