"""The steps of `bench_scale.py` on many tiny cases, each with its seconds and memory."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from benchmarks.stand_ins import NAME, WITHOUT_MIRRORS, Brightness
from benchmarks.timing import peak_mib
from data.centers import load_centers
from data.prepare.duplicates import find_duplicates
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PrepareSettings
from data.prepare.signature import Signature
from data.quality.findings import CheckSettings, check_centers, write_findings
from data.readers.scans import list_scans
from data.splits import Split
from engine.case_metrics import Row, write_cases
from engine.checkpointing import save_checkpoint
from engine.evaluation import run_stage
from engine.predict_scans import Work, hash_checkpoints, predict_scans
from engine.run_folders import create_run, mark_done
from engine.scan_output import Stamp
from engine.stage_predictors import StagePredictors
from methods import METHODS, build_method, make_config
from reproduce.analysis.collect import cell_of
from reproduce.analysis.paper_tables import TABLE3
from reproduce.analysis.run_table import report_table, thresholds_of
from reproduce.analysis.tables import table_keys
from reproduce.experiments.cells import SEED, lesion_centers, steps_of
from reproduce.experiments.plan import Plan
from utils.config import Config, Evaluation
from utils.files import write_json, write_text
from utils.settings import to_plain

SHAPE, SPACING_MM = (20, 48, 44), (2.5, 2.0, 2.0)  # of a case: voxels and mm, (z, y, x)
FAT_HU, PANCREAS_HU, TUMOR_HU = -100, 150, 225
STAGE, TIME = "pancreas_coarse", "20250101-000000"
MORE = 10  # the search for duplicates alone is quick: so many times the cases
FEW = 2  # cases of the two centers that only are there


def write_center(folder: Path, cases: int, seed: int) -> None:
    """NIfTI images and labels in the folder layout, each an anatomy of its own."""
    rng = np.random.default_rng(seed)
    affine = np.diag([-SPACING_MM[2], -SPACING_MM[1], SPACING_MM[0], 1.0])
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(cases):
        coarse = rng.normal(0, 40, [n // 4 + 1 for n in SHAPE])
        smooth = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[tuple(map(slice, SHAPE))]
        image = FAT_HU + np.clip(smooth, -80, 80) + rng.normal(0, 4, SHAPE)
        label = np.zeros(SHAPE, np.uint8)
        start = [int(rng.integers(2, n - size - 2)) for n, size in zip(SHAPE, (9, 16, 20))]  # noqa: B905
        for value, hu, size in ((1, PANCREAS_HU, (9, 16, 20)), (2, TUMOR_HU, (6, 9, 9))):
            box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
            label[box], image[box] = value, hu + rng.normal(0, 4, size)
        for kind, array in (("images", np.rint(image).astype(np.int16)), ("labels", label)):
            file = nib.Nifti1Image(array.T, affine)
            file.header.set_xyzt_units("mm")
            nib.save(file, folder / kind / f"case_{number:05d}.nii")


def make_place(folder: Path, cases: int) -> Path:
    """Center C with so many cases, A and B with a few; the path of centers.toml."""
    lines = []
    for seed, (name, count) in enumerate({"A": FEW, "B": FEW, "C": cases}.items()):
        write_center(folder / name, count, seed)
        lines.append(f'[centers.{name}]\nreader = "folder"\npath = "{name}"\n')
    path = folder / "centers.toml"
    write_text(path, "\n".join(lines))
    return path


def write_run(config: Config) -> Path:
    """A finished run with an untrained network; its checkpoint."""
    split = Split(config.sources, str(config.target), train_cases=(), test_cases=())
    run = create_run(config, TIME, split)
    content: dict[str, Any] = {
        "method": build_method(config, list(split.sources)).state_dict(),
        "step": 1,
    }
    content |= {"config": to_plain(config), "split": to_plain(split), "split_hash": split.hash}
    save_checkpoint(run.checkpoint, {**content, "signatures": {}})
    mark_done(run.folder)
    return run.checkpoint


def fill_table(plan: Plan, cases: int) -> None:
    """Results of Table III with so many cases in each: numbers drawn, nothing predicted."""
    centers, rng = load_centers(plan.centers), np.random.default_rng(0)
    shown = lesion_centers(centers)
    keys = table_keys(TABLE3, shown, (SEED,), thresholds_of(TABLE3, plan.holdout))
    for key in {key for of_seeds in keys.values() for key in of_seeds}:
        cell = cell_of(centers, key)
        training = next(
            s for s in steps_of(plan, cell) if s.kind == "train" and s.stage == key.stage
        )
        run = create_run(training.config, TIME, Split(cell.sources, cell.target, (), ()))
        mark_done(run.folder)
        result = run.folder / f"evaluation_{cell.target}_{cell.roi_source}_{cell.threshold}"
        result.mkdir()
        numbers = rng.uniform(1, 30, (cases, 4))
        names = ("asd_mm", "hd95_mm", "hd95_max_mm", "seconds")
        rows: list[Row] = [
            {"case_id": f"case_{n:05d}", "dsc": 3 * float(of[0]), "threshold": 0.5}
            for n, of in enumerate(numbers)
        ]
        for row, of in zip(rows, numbers, strict=True):
            row.update({name: float(value) for name, value in zip(names, of, strict=True)})
        write_cases(result / "cases.csv", rows)
        write_json(result / "summary.json", {"target": cell.target})
        mark_done(result)


def run_steps(folder: Path, cases: int) -> dict[str, dict[str, float]]:
    """Step -> `s` (the process's own seconds) and `peak_mib` (of the process so far)."""
    METHODS[NAME] = Brightness
    Brightness.idle = True
    path = make_place(folder, cases)
    centers = load_centers(path)
    target, cache = {"C": centers["C"]}, folder / "cache"
    stage = replace(WITHOUT_MIRRORS[STAGE], window_voxels=(48, 48))
    places: dict[str, Any] = {"centers": path, "cache": cache}
    places["checkpoints"] = folder / "checkpoints"
    trained: dict[str, Any] = {"spacing": SPACING_MM, "sources": ("A", "B"), "target": "C"}
    config = make_config(stage, NAME, width=8, **trained, **places)
    checkpoint = write_run(config)
    evaluation = Evaluation(STAGE, target="C", method=NAME, device="cpu", workers=1, **places)
    plan = Plan(path, folder / "of_table", cache, time=TIME)
    fill_table(plan, cases)
    settings = CheckSettings(folder / "check", cache)
    prepare = PrepareSettings(spacing=SPACING_MM)
    steps: dict[str, Callable[[], Any]] = {
        "check": lambda: write_findings(check_centers(target, settings), settings.out),
        "check_again": lambda: check_centers(target, settings),
        "prepare": lambda: prepare_centers(target.values(), cache, prepare),
        "prepare_again": lambda: prepare_centers(target.values(), cache, prepare),
        "evaluate": lambda: run_stage(evaluation),
        "evaluate_again": lambda: run_stage(evaluation),
        "tables": lambda: report_table(TABLE3, plan),
        "predict": lambda: _predict(folder, checkpoint),
        "predict_again": lambda: _predict(folder, checkpoint),
    }
    found = {name: _measured(step) for name, step in steps.items()}
    signatures = make_signatures(MORE * cases)
    return found | {f"duplicates_x{MORE}": _measured(lambda: find_duplicates(signatures))}


def make_signatures(count: int, slabs: int = 30) -> list[Signature]:
    """Signs of scans that show different patients: smooth, so that some look alike at first."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        coarse = rng.integers(0, 256, (4, 4, 4)).astype(np.uint8)
        bands = rng.integers(0, 256, (slabs, 4, 4)).astype(np.uint8)
        made.append(
            Signature(
                "C",
                f"case_{number:05d}",
                np.sort(rng.integers(0, 2**63, 256).astype(np.uint64)),
                coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2),
                bands.repeat(3, 1).repeat(3, 2),
                np.tile(rng.uniform(200, 400, 2), (slabs, 1)).astype(np.float32),
            )
        )
    return made


def _predict(folder: Path, checkpoint: Path) -> None:
    """What predict.py does with a folder of scans, in one stage."""
    files: Mapping[str, Path] = {STAGE: checkpoint}
    work = Work(
        out=folder / "out",
        predictors=StagePredictors(files, torch.device("cpu")),
        stamp=Stamp(hash_checkpoints(files)),
        say=lambda text: None,
    )
    failures = predict_scans(work, list_scans(folder / "C" / "images")[0])
    if failures:
        raise ValueError(next(iter(failures.values())))


def _measured(step: Callable[[], Any]) -> dict[str, float]:
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        step()
    return {"s": time.process_time() - started, "peak_mib": peak_mib()}
