"""nnU-Net (Isensee et al., Nature Methods 2021) and PaNSegNet in its place: driven, not rebuilt.

nnU-Net 2 plans, preprocesses, trains and predicts by its own code; here are only what goes in and
what comes out. Rows of Table VI: nnUNet_3d_lowres, nnUNet_3d_fullres, nnUNet_3d_cascade, PaNSegNet.

What differs from the other methods, as in the paper: it sees whole images and not our pancreas
crops, has three classes (background, pancreas, tumor), plans its voxel size from the source cases,
trains by its own loss, optimizer and augmentation, and is no coarse and fine stage. `nnunet_crops`,
which the paper lacks, is the same 3d_fullres on our pancreas crops: it tells the method from the
region of interest. Which version the paper ran is not stated; with three classes, Table VI's
numbers for 3d_lowres are those of a plan of 64 x 224 x 224 voxels, and ours has its own.

Choices of ours: each left-out center has a data set of its own without that center's cases, which
planning would else see. nnU-Net's own cross-validation inside the sources has `folds` folds; one
network predicts, as in Table VI's cost, or the mean of several (`networks`; its authors take all
five). The label map is the largest class, without our threshold and without our choice of
components. nnU-Net's own validation is left out but where the cascade reads it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.prepare.export_dataset import SPLITS
from data.splits import Split
from methods.external import pansegnet
from methods.external.base import PANCREAS, ExternalMethod, Scan, TrainingCase, check_cases
from methods.external.data_set import DATA_SET, EPOCH, make_folds, name_cases, write_data_set
from models.complexity import Complexity
from utils.config import Config, StoppedError
from utils.device import select_device
from utils.files import write_json, write_text
from utils.progress import Progress
from utils.settings import AT_LEAST_1, NOT_NEGATIVE, Range, later, setting
from utils.signals import exit_with_parent

LAUNCHER = Path(__file__).with_name("launcher.py")
INSTALL = "python -m pip install -r requirements-nnunet.txt"
LOWRES, FULLRES, CASCADE = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
PLANNERS = ("ExperimentPlanner", "nnUNetPlannerResEncM")
PLANS = "Plans"  # what we call the plans, whichever planner made them
PLANNED, SETTINGS, LOG = "planned", "settings.json", "nnunet.log"
DROPPED = 3  # the launcher's exit status where a configuration is not in the plans
EPOCHS, ITERATIONS = 1000, 250  # nnU-Net's own
_TAIL = 15  # lines of nnU-Net's output in a message


@dataclass(frozen=True)
class NnunetSettings:
    """How nnU-Net is planned and how long it trains; the rest is its own."""

    planner: str = setting(
        PLANNERS[0],
        "nnU-Net's planner; the second gives its residual encoder (ResEnc M)",
        "nnU-Net 2",
        PLANNERS,
    )
    gpu_memory_gb: float = setting(
        0.0, "memory that a plan may use; 0: the planner's own", "-", allowed=NOT_NEGATIVE
    )
    num_epochs: int = setting(EPOCHS, "epochs of each network", "nnU-Net 2", allowed=AT_LEAST_1)
    iterations: int = setting(
        ITERATIONS, "training steps of an epoch", "nnU-Net 2", allowed=AT_LEAST_1
    )
    validation_iterations: int = setting(
        50, "validation steps of an epoch", "nnU-Net 2", allowed=AT_LEAST_1
    )
    folds: int = setting(
        5,
        "nnU-Net's own cross-validation inside the source cases; the cascade trains 3d_lowres on "
        "each",
        "nnU-Net 2",
        allowed=Range(least=2),
    )
    networks: int = setting(
        1, "folds whose networks predict together", "Table VI", allowed=AT_LEAST_1
    )
    mirroring: bool = setting(True, "mirror in training and in prediction", "nnU-Net 2")
    tile_step: float = later(
        setting(
            0.5,
            "distance of a prediction's windows, as a part of a window; at 1 none overlap; the "
            "cascade's first label maps of the source cases too",
            "nnU-Net 2",
            allowed=Range(above=0, most=1),
        )
    )


@dataclass(frozen=True)
class PaNSegNetSettings(NnunetSettings):
    """As nnU-Net's, with the epochs of PaNSegNet's trainer."""

    num_epochs: int = setting(
        pansegnet.EPOCHS, "epochs of each network", "its trainer", allowed=AT_LEAST_1
    )


class Nnunet(ExternalMethod):
    """One configuration of nnU-Net. Its files are in `folder`/nnunet, its output in nnunet.log.

    `chain`: the configurations that predict, each reading the one before it. Those before the last
    train on every fold, since their validation is what the next one trains on.
    """

    Settings: ClassVar[type[Any]] = NnunetSettings
    chain: ClassVar[tuple[str, ...]]
    trainer: ClassVar[str] = "NnunetTrainer"

    settings: NnunetSettings

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        folds, networks = self.settings.folds, self.settings.networks
        if networks > folds:
            raise ValueError(f"--networks {networks}: there are {folds} folds; raise --folds")
        self._predictors: dict[tuple[Path, str], Any] = {}

    def check_installed(self) -> None:
        """Raise ValueError, with the command to give, where nnU-Net is missing."""
        if importlib.util.find_spec("nnunetv2") is None:
            raise ValueError(f"--method {self.config.method}: needs nnU-Net; give {INSTALL}")

    def train(
        self, split: Split, cases: Sequence[TrainingCase], folder: Path, device: str
    ) -> list[Path]:
        """Plan, preprocess and train; returns the plans and the networks.

        Raises ValueError where the planner drops the configuration, with its reason, and
        StoppedError where nnU-Net fails. What was finished before a kill is not done again; a
        network resumes from its last checkpoint, some epochs back. The copies of the images are
        deleted at the end.
        """
        self.check_installed()
        check_cases(split, cases)
        home = folder / "nnunet"
        named = name_cases(cases)
        folds = make_folds(named, self.settings.folds)
        write_json(home / SETTINGS, self._launcher_settings(device))
        if not (home / PLANNED).is_file():
            write_data_set(home, named)
            self._launch(home, ["plan"], device)
            write_json(home / "preprocessed" / DATA_SET / SPLITS, folds)
            write_text(home / PLANNED, "")
        for configuration in self.chain:
            missing = [
                str(fold)
                for fold in self._trained_folds(configuration)
                if not (home / f"{configuration}_fold{fold}.done").is_file()
            ]
            if missing:
                self._launch(home, ["train", configuration, *missing], device, len(missing))
        for part in ("raw", "preprocessed"):
            shutil.rmtree(home / part, ignore_errors=True)
        return self._weights(home)

    def predict(self, case: Scan, folder: Path, device: str = "auto") -> np.ndarray:
        """The label map of one case; networks stay loaded from one call to the next."""
        self.check_installed()
        labels: np.ndarray | None = None
        for configuration in self.chain:
            predictor = self._predictor(folder / "nnunet", configuration, device)
            labels = predictor.predict_single_npy_array(
                case.image_hu[None].astype(np.float32),
                {"spacing": list(case.spacing)},
                None if labels is None else labels[None].astype(np.int8),  # -1 is outside
            )
        assert labels is not None
        return labels.astype(np.uint8)

    def networks(self, folder: Path) -> list[Complexity]:
        """Parameters and multiply-accumulates of each network of the chain, for its patch."""
        self.check_installed()
        from methods.external.trainers import count_network

        home = folder / "nnunet"
        return [count_network(self._model(home, name), self.trainer, name) for name in self.chain]

    def budget(self) -> tuple[int, int]:
        """Training steps of a network: as set, and its authors'."""
        own: NnunetSettings = self.Settings()
        return (
            self.settings.num_epochs * self.settings.iterations,
            own.num_epochs * own.iterations,
        )

    def _trained_folds(self, configuration: str) -> range:
        last = configuration == self.chain[-1]
        return range(self.settings.networks if last else self.settings.folds)

    def _launcher_settings(self, device: str) -> dict[str, Any]:
        settings = asdict(self.settings)
        return {
            "trainer": self.trainer,
            "configurations": [*self.chain, *[FULLRES] * (CASCADE in self.chain)],
            "planner": settings.pop("planner"),
            "gpu_memory_gb": settings.pop("gpu_memory_gb"),
            "processes": max(self.config.workers, 1),
            "device": select_device(device).type,
            "validated": list(self.chain[:-1]),  # nnU-Net's validation makes the next one's input
            "budget": {
                "epochs": settings["num_epochs"],
                "iterations": settings["iterations"],
                "validation_iterations": settings["validation_iterations"],
                "mirroring": settings["mirroring"],
                "seed": self.config.seed,
                "tile_step": settings["tile_step"],
            },
        }

    def _launch(self, home: Path, words: list[str], device: str, networks: int = 0) -> None:
        """Run the launcher to its end; its output goes to the log, epochs to the progress."""
        command = [sys.executable, str(LAUNCHER), str(home), *words]
        epochs = networks * self.settings.num_epochs
        progress = Progress(f"nnU-Net {' '.join(words)}", epochs) if epochs else None
        print(f"nnU-Net {' '.join(words)}: see {home / LOG}", flush=True)
        tail: list[str] = []
        with (
            (home / LOG).open("a", encoding="utf-8") as log,
            _started(command, environment(home, device, self.config.workers)) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                log.flush()
                tail = [*tail, line.rstrip()][-_TAIL:]
                if line.startswith(EPOCH) and progress is not None:
                    progress.advance()
            status = process.wait()
        if progress is not None:
            progress.close()
        if status == DROPPED:
            raise ValueError(f"--method {self.config.method}: {tail[-1]}")
        if status:
            lines = "\n  ".join(tail)
            raise StoppedError(
                f"nnU-Net {' '.join(words)} ended with status {status}; the last of {home / LOG}:"
                f"\n  {lines}\nthe same command resumes"
            )

    def _model(self, home: Path, configuration: str) -> Path:
        return home / "results" / DATA_SET / f"{self.trainer}__{PLANS}__{configuration}"

    def _weights(self, home: Path) -> list[Path]:
        files = []
        for configuration in self.chain:
            model = self._model(home, configuration)
            files += [model / "plans.json", model / "dataset.json"]
            files += [
                model / f"fold_{fold}" / "checkpoint_final.pth"
                for fold in range(self.settings.networks)
            ]
        return files

    def _predictor(self, home: Path, configuration: str, device: str) -> Any:
        key = (home, configuration)
        if key not in self._predictors:
            from methods.external.trainers import load_predictor

            self._predictors[key] = load_predictor(
                self._model(home, configuration),
                self.trainer,
                range(self.settings.networks),
                select_device(device),
                mirroring=self.settings.mirroring,
                tile_step=self.settings.tile_step,
            )
        return self._predictors[key]


class NnunetLowres(Nnunet):
    """The U-Net on images of low resolution; only where these are large against its patch."""

    chain = (LOWRES,)
    table6 = row = "nnUNet_3d_lowres"


class NnunetFullres(Nnunet):
    """The U-Net at the median voxel size of the source cases."""

    chain = (FULLRES,)
    table6 = row = "nnUNet_3d_fullres"


class NnunetCascade(Nnunet):
    """3d_lowres, whose label map is a second input of a U-Net at full resolution."""

    chain = (LOWRES, CASCADE)
    table6 = row = "nnUNet_3d_cascade"


class NnunetFullresCrops(Nnunet):
    """3d_fullres on our pancreas crops: what the region of interest gains nnU-Net."""

    chain = (FULLRES,)
    roi = PANCREAS
    row = "nnUNet_3d_fullres on pancreas crops"


class PaNSegNetSystem(Nnunet):
    """PaNSegNet's network (`pansegnet.py`), trained and planned as nnU-Net's 3d_fullres."""

    Settings: ClassVar[type[Any]] = PaNSegNetSettings
    chain = (FULLRES,)
    trainer = "PaNSegNetTrainer"
    table6 = row = "PaNSegNet"


def environment(home: Path, device: str, workers: int) -> dict[str, str]:
    """The variables that nnU-Net reads, beside those that are there."""
    own = {
        "nnUNet_raw": str(home.absolute() / "raw"),
        "nnUNet_preprocessed": str(home.absolute() / "preprocessed"),
        "nnUNet_results": str(home.absolute() / "results"),
        "nnUNet_n_proc_DA": str(workers),
        "nnUNet_def_n_proc": str(max(workers, 1)),
    }
    chosen = select_device(device)
    if chosen.type == "cpu":
        own["nnUNet_compile"] = "f"
    elif chosen.index is not None:  # nnU-Net takes the first that it sees
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = [name.strip() for name in seen.split(",") if name.strip()]
        own["CUDA_VISIBLE_DEVICES"] = names[chosen.index] if names else str(chosen.index)
    return {**os.environ, **own}


@contextmanager
def _started(command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process whose group ends with this block, and which ends with this process."""
    process = subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=functools.partial(exit_with_parent, signal.SIGTERM, os.getpid()),
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # its workers too
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def read_plans(home: Path) -> dict[str, Any]:
    """The plans that nnU-Net made."""
    path = home / "preprocessed" / DATA_SET / f"{PLANS}.json"
    plans: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return plans
