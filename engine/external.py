"""What the engine does for a system that is not ours: it hands over cases and gets label maps.

Its run folder is like any other: config.json, run.json, last.pt (which cases trained it, their
signatures, what its networks cost), and evaluations with cases.csv. Beside the tumor's measures
an evaluation has those of the pancreas, and the label maps.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.case import LABEL_PANCREAS, LABEL_TUMOR, Center
from data.prepare.prepared_case import PreparedCase, restore_prob
from data.prepare.signature import Signature, from_plain, signatures_of, to_plain
from data.readers import load_case, write_mask
from data.roi import Box, crop, expand_box, paste
from data.splits import Split, split_from_plain
from engine.cascade import Earlier, Roi, choose_roi
from engine.case_metrics import (
    Row,
    append_case,
    measure_case,
    sort_cases,
    summarize,
)
from engine.checkpointing import load_checkpoint, save_checkpoint
from engine.crops import input_box
from engine.run_folders import Run, environment, locked, mark_done
from engine.split_selection import heldout_cases, split_cases
from methods import ExternalMethod, build_external, config_from_plain
from methods.external.base import WHOLE, Scan, TrainingCase
from models.complexity import Complexity
from utils.config import Config, Evaluation
from utils.device import select_device
from utils.leftovers import remove_leftovers
from utils.settings import to_plain as settings_to_plain
from utils.stages import Stage

PANCREAS_CASES = "pancreas.csv"  # in the folder of an evaluation: the columns of cases.csv


@dataclass(frozen=True)
class ExternalPredictor:
    """A trained external system; it stands where a `Predictor` stands in an evaluation."""

    config: Config
    method: ExternalMethod
    folder: Path
    device: torch.device
    split: Split
    signatures: Mapping[str, Sequence[Signature]] = field(default_factory=dict)
    window_voxels: int | None = None

    @property
    def stage(self) -> Stage:
        """The stage as the system has it."""
        return self.config.stage

    @property
    def precision(self) -> str:
        """nnU-Net's: half precision on a GPU."""
        return "fp16" if self.device.type == "cuda" else "fp32"


def check_training(config: Config) -> None:
    """Raise ValueError where an external system cannot train: not installed, several processes."""
    build_external(config).check_installed()
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        raise ValueError(
            f"--method {config.method}: trains in one process, not {processes}; start it without "
            "torchrun"
        )


def train_external(
    config: Config,
    run: Run,
    split: Split,
    prepared: dict[str, list[PreparedCase]],
    centers: Mapping[str, Center],
) -> None:
    """Train one run to its end and mark it done; a killed one resumes."""
    cases, heldout = split_cases(split, prepared), heldout_cases(split, prepared)
    method = build_external(config)
    labeled = [case for case in cases if case.has_label and "pancreas" in case.boxes]
    with locked(run.folder):
        remove_leftovers(run.folder, alone=True)
        print(f"{run.folder}: {len(labeled)} cases", flush=True)
        to_train = [_training_case(config.stage, case, centers[case.center]) for case in labeled]
        files = method.train(split, to_train, run.folder, config.device)
        content: dict[str, Any] = {
            "config": settings_to_plain(config),
            "split": settings_to_plain(split),
            "signatures": {
                kind: to_plain(signatures_of(of))
                for kind, of in (("train", cases), ("heldout", heldout))
            },
            "networks": [[n.parameters, n.macs] for n in method.networks(run.folder)],
            "budget": list(method.budget()),
            "environment": environment(),
            "seed": config.seed,
        }
        save_checkpoint(run.checkpoint, content)
        own = [run.checkpoint, *(run.folder / name for name in ("config.json", "run.json"))]
        mark_done(run.folder, [*own, *files])


def load_external(run: Run, device: str = "auto") -> ExternalPredictor:
    """The system that a run has trained; its networks are read when it predicts.

    Raises FileNotFoundError, or ValueError for a last.pt that cannot be read.
    """
    content = load_checkpoint(run.checkpoint)
    config = config_from_plain(content["config"])
    return ExternalPredictor(
        config,
        build_external(config),
        run.folder,
        select_device(device),
        split_from_plain(content["split"]),
        {kind: from_plain(plain) for kind, plain in content["signatures"].items()},
    )


def check_evaluation(evaluation: Evaluation, predictor: ExternalPredictor) -> None:
    """Raise ValueError where it is not installed, or an option says nothing to it."""
    method = predictor.method
    method.check_installed()
    rules = (
        (evaluation.threshold == "target", "--threshold source-val: it gives labels, chosen by"),
        (evaluation.window_voxels is None, "--window-voxels: its windows are planned by"),
        (evaluation.precision == "auto", f"--precision {evaluation.precision}: is chosen by"),
        (
            evaluation.roi_source == "seg" or method.roi != WHOLE,
            "--roi-source mask: the whole image is seen by",
        ),
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(f"{message} {predictor.config.method} itself; leave it out")


@dataclass(frozen=True)
class ExternalCost:
    """What an external run's networks cost together, and its training: iterations, its own."""

    complexity: Complexity
    budget: tuple[int, int]


@functools.lru_cache(maxsize=64)
def read_cost(checkpoint: Path) -> ExternalCost:
    """The cost that a run of an external system has noted in its last.pt."""
    content = load_checkpoint(checkpoint)
    parameters, macs = map(sum, zip(*content["networks"], strict=True))
    iterations, own = content["budget"]
    return ExternalCost(Complexity(parameters, macs), (iterations, own))


@dataclass(frozen=True)
class ExternalPrediction:
    """A label map on the image's own canonical grid, uint8 (z, y, x), and what the system saw."""

    labels: np.ndarray = field(repr=False)
    roi: Roi
    box: Box | None  # on the prepared grid; None: the whole image

    @property
    def mask(self) -> np.ndarray:
        """Its tumor, bool."""
        return self.labels == LABEL_TUMOR


def segment_external(
    predictor: ExternalPredictor, item: PreparedCase, center: Center, earlier: Sequence[Earlier]
) -> ExternalPrediction:
    """One case: the whole image, or the crop around the pancreas that was found before."""
    stage = predictor.stage
    if stage.roi == WHOLE:
        scan = _read_whole(item, center)
        labels = _predict(predictor, Scan(scan.image_hu, scan.spacing))
        return ExternalPrediction(labels, Roi(None), None)
    roi = choose_roi(stage, earlier)
    box = input_box(stage, item.shape, roi.box, item.spacing)
    scan = Scan(np.array(crop(item.image_hu, box)), item.spacing)
    return ExternalPrediction(_restore(_predict(predictor, scan), box, item), roi, box)


def measure_pancreas(
    folder: Path, case_id: str, labels: np.ndarray, label: np.ndarray | None, item: PreparedCase
) -> None:
    """Write the label map, and add the pancreas's row (lesion included) to `PANCREAS_CASES`."""
    write_mask(folder / "label_maps" / f"{case_id}.nii.gz", labels, item.grid)
    truth = None if label is None else label >= LABEL_PANCREAS
    row = measure_case(labels >= LABEL_PANCREAS, truth, item.original_spacing)
    append_case(folder / PANCREAS_CASES, row | {"case_id": case_id})


def finish_pancreas(folder: Path, rows: Sequence[Row]) -> Row:
    """Sort `PANCREAS_CASES`, of each case the last row; its means for summary.json.

    Means are over the cases of `rows`; {} without any.
    """
    path = folder / PANCREAS_CASES
    if not path.is_file():
        return {}
    names = {row["case_id"] for row in rows}
    of_pancreas = [row for row in sort_cases(path) if row["case_id"] in names]
    if not of_pancreas:
        return {}
    summary = summarize([row | {"seconds": 0.0} for row in of_pancreas])
    del summary["seconds_per_case"]
    return {"pancreas": summary}


def _training_case(stage: Stage, case: PreparedCase, center: Center) -> TrainingCase:
    assert case.files is not None  # prepared from a center's files
    read = _read_whole if stage.roi == WHOLE else functools.partial(_read_crop, stage)
    name = (case.center, case.case_id)
    return TrainingCase(name, case.files.patient_id, functools.partial(read, case, center))


def _read_whole(item: PreparedCase, center: Center) -> Scan:
    assert item.files is not None  # prepared from a center's files
    with warnings.catch_warnings():  # said when it was prepared
        warnings.simplefilter("ignore")
        case = load_case(center, item.files)
    return Scan(case.image_hu, case.spacing, case.label)


def _read_crop(stage: Stage, item: PreparedCase, center: Center) -> Scan:
    """The crop around the label's pancreas, with the margin of inference, on the prepared grid."""
    box = expand_box(item.boxes["pancreas"], stage.margin_voxels, item.shape)
    assert item.label is not None
    return Scan(np.array(crop(item.image_hu, box)), item.spacing, np.array(crop(item.label, box)))


def _predict(predictor: ExternalPredictor, scan: Scan) -> np.ndarray:
    device = str(predictor.device)
    return predictor.method.predict(scan, predictor.folder, device)


def _restore(labels: np.ndarray, box: Box, item: PreparedCase) -> np.ndarray:
    """A crop's label map on the prepared grid -> on the image's own; each class covers by half."""
    whole = paste(labels, box, item.shape)
    restored = np.zeros(item.original_shape, np.uint8)
    for value in (LABEL_PANCREAS, LABEL_TUMOR):  # the tumor is part of the pancreas
        part = restore_prob((whole >= value).astype(np.float32), item)
        restored[part >= 0.5] = value
    return restored
