"""Finished trainings of an experiment whose networks are windows of HU."""

from __future__ import annotations

from torch import Tensor, nn

from data.centers import load_centers
from data.splits import Split
from engine.checkpointing import save_checkpoint
from engine.run_folders import create_run, mark_done
from methods.bl import Baseline
from reproduce.experiments.cells import TRAIN, make_cell, steps_of
from reproduce.experiments.plan import Plan
from tests._evaluation_fixtures import PANCREAS_CUT, TIME, HuWindow, hu_window
from utils.settings import to_plain

NARROW_CUT = 165.0  # HU: of the tumor's 180, not of one that is 20 darker


class WindowBaseline(Baseline):
    """The baseline's row, of a network that is a window of HU too."""

    table5 = "BL"
    table6 = "BigAug"

    def build_network(self) -> nn.Module:
        return HuWindow()

    def predict(self, image: Tensor) -> Tensor:
        prob: Tensor = self.network(image)
        return prob


def train(plan: Plan, method: str, tumor_cut: float, seed: int = 2022) -> None:
    """All four finished trainings of a method with the target C, as the plan names them."""
    centers = load_centers(plan.centers)
    cell = make_cell(centers, "tumor_fine", "C", method=method, seed=seed)
    for step in steps_of(plan, cell):
        if step.kind != TRAIN or (step.folder / "done").is_file():
            continue
        config, split = step.config, Split(step.config.sources, "C", (), ())
        run = create_run(config, TIME, split)
        cut = tumor_cut if config.stage.target == "tumor" else PANCREAS_CUT
        weights = {f"network.{name}": value for name, value in hu_window(cut).items()}
        content = {"method": weights, "config": to_plain(config), "step": 1, "signatures": {}}
        content |= {"split": to_plain(split), "split_hash": split.hash}
        save_checkpoint(run.checkpoint, content)
        mark_done(run.folder)
