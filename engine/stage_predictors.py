"""Which checkpoints predict a new CT; and their networks, one at a time on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from data.prepare.signature import Signature
from engine.batches import BYTES_PER_CHANNEL
from engine.checkpointing import load_checkpoint
from engine.inference import Predictor, load_predictor
from engine.run_folders import Run, find_runs
from utils.config import DEFAULT_METHOD
from utils.device import select_precision
from utils.stages import STAGE_NAMES, STAGES, stage_named

# A network pass on a CPU. Linux ends a process that takes too much memory where CUDA says so; and
# the limit is no machine's, so that a scan has the same mask on each.
CPU_PASS_BYTES = 3 * 2**30


class StagePredictors(Mapping[str, Predictor]):
    """Trained stages by name. Each file is read once, into the machine's memory; the network that
    was looked up last is on the device, and only that.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Path],
        device: torch.device,
        precision: str = "auto",
        window_voxels: int | None = None,
    ) -> None:
        """`window_voxels`: the largest input at once; None: what a CPU's memory allows, on a GPU
        any that fits.
        """
        self.checkpoints, self.device = dict(checkpoints), device
        self.precision = select_precision(precision, device, training=False)
        self.window_voxels = window_voxels
        self._read: dict[str, Predictor] = {}
        self._on_device: str | None = None

    def __getitem__(self, name: str) -> Predictor:
        predictor = self.on_host(name)
        if self._on_device not in (None, name):
            self._read[self._on_device].method.to("cpu")
        if self._on_device != name:
            predictor.method.to(self.device)
            self._on_device = name
        return replace(
            predictor,
            device=self.device,
            precision=self.precision,
            window_voxels=self._window(name),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.checkpoints)

    def __len__(self) -> int:
        return len(self.checkpoints)

    def on_host(self, name: str) -> Predictor:
        """The stage as it was read, for its settings. Raises what `load_predictor` does."""
        if name not in self._read:
            self._read[name] = load_predictor(self.checkpoints[name], "cpu", "fp32", stage=name)
        return self._read[name]

    def trained_on(self, name: str) -> Sequence[Signature]:
        """The signatures of the scans that trained a stage."""
        return self.on_host(name).signatures.get("train", ())

    def _window(self, name: str) -> int | None:
        if self.window_voxels is not None or self.device.type != "cpu":
            return self.window_voxels
        return CPU_PASS_BYTES // (BYTES_PER_CHANNEL * self.on_host(name).config.width)


def find_checkpoints(
    where: Sequence[Path], stages: Sequence[str] | None = None, pancreas_given: bool = False
) -> dict[str, Path]:
    """The checkpoint of each stage that is to run, in the order of Fig. 4.

    `where`: one folder of runs, of which the newest finished ones that belong together are taken;
    or a folder without runs whose .pt files are; or files and run folders, one for each stage.
    `stages`: None is all that are needed, or that are given. `pancreas_given`: the pancreas stages
    are not needed. Raises FileNotFoundError or ValueError, with what to do.
    """
    for name in stages or ():
        stage_named(name)
    usual = [n for n in STAGE_NAMES if not (pancreas_given and STAGES[n].target == "pancreas")]
    wanted = [name for name in STAGE_NAMES if name in stages] if stages else usual
    missing = [path for path in where if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: no such file or folder; correct --checkpoints")
    if len(where) == 1 and where[0].is_dir() and not (where[0] / "last.pt").is_file():
        folder = where[0]
        if any(find_runs(folder, name) for name in STAGE_NAMES):
            return newest_checkpoints(folder, wanted)
        files = sorted(folder.glob("*.pt"))
        if not files:
            raise FileNotFoundError(
                f"{folder}: holds neither run folders nor .pt files; train the stages first, or "
                "give --checkpoints another folder"
            )
    else:
        files = [path / "last.pt" if path.is_dir() else path for path in where]
    return _by_stage(files, wanted, all_needed=stages is not None)


def _by_stage(files: Sequence[Path], wanted: Sequence[str], *, all_needed: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        name = str(load_checkpoint(path)["config"]["stage"]["name"])
        if name in found:
            raise ValueError(f"{found[name]} and {path}: are both {name}; give one of them")
        found[name] = path
    chosen = {name: found[name] for name in wanted if name in found}
    lacking = [name for name in wanted if name not in found]
    if not chosen or (lacking and all_needed):
        raise FileNotFoundError(
            f"no checkpoint of {', '.join(lacking)} is given, only of {', '.join(sorted(found))}; "
            "add it to --checkpoints, or choose others by --stages"
        )
    return chosen


def newest_checkpoints(folder: Path, stages: Sequence[str]) -> dict[str, Path]:
    """Of each stage the newest finished run that belongs to the chosen one of the stage after it.

    That is: of its timestamp if there is one, trained on the same centers (a pancreas stage may
    have more), with its seed if there is one; of its method, or, for the pancreas under a tumor
    stage of any method, of the default one. Raises FileNotFoundError where there is none, and
    ValueError where several are as good.
    """
    chosen: dict[str, Run] = {}
    later, later_target = None, ""
    for name in reversed(stages):
        runs = [r for r in find_runs(folder, name) if r.done and r.fold is None]
        runs = [run for run in runs if run.checkpoint.is_file()]
        if later is not None:
            method = later.method if STAGES[name].target == later_target else DEFAULT_METHOD
            runs = _belonging(runs, later, method, STAGES[name].target)
        else:
            runs = [run for run in runs if run.time == runs[0].time]
            runs = [run for run in runs if run.method == DEFAULT_METHOD] or runs
        if not runs:
            fitting = f" that belongs to {later.folder.name}" if later is not None else ""
            raise FileNotFoundError(
                f"{folder}: has no finished training of {name}{fitting}; train it, leave it out by "
                "--stages, or give each file to --checkpoints"
            )
        if len(runs) > 1:
            listed = ", ".join(str(run.checkpoint) for run in runs)
            raise ValueError(
                f"{folder}: several trainings of {name} are as good; give --checkpoints one file "
                f"for each stage, of this one: {listed}"
            )
        later, later_target = runs[0], STAGES[name].target
        chosen[name] = later
    return {name: chosen[name].checkpoint for name in stages}


def _belonging(runs: Sequence[Run], later: Run, method: str, target: str) -> list[Run]:
    """Those of an earlier stage's runs, newest first, that fit the later run best."""
    own = set(later.sources)
    pancreas = target == "pancreas"
    fits = [r for r in runs if own == set(r.sources) or (pancreas and own < set(r.sources))]
    fits = [run for run in fits if later.target is None or later.target not in run.sources]
    fits = [run for run in fits if run.method == method]
    wishes: tuple[Callable[[Run], bool], ...] = (
        lambda run: run.time == later.time,
        lambda run: run.seed == later.seed,
        lambda run: set(run.sources) != own,  # more patients
    )
    for wish in wishes:
        fits = [run for run in fits if wish(run)] or fits
    return [run for run in fits if run.time == fits[0].time]
