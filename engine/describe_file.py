"""What a checkpoint or a CT is, for `predict.py --info`: names and values, in the order to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.case import Case
from data.readers.scans import Scan, list_scans, load_scan
from data.readers.series import list_series, slice_folders
from data.readers.volume import grid_axis_map
from engine.checkpointing import load_checkpoint
from utils.about import NOTICE
from utils.files import sha256_of

Facts = dict[str, Any]
CHECKPOINT_SUFFIXES = (".pt", ".pth")
PERCENTILES = (1, 50, 99)


def describe_file(path: Path, series: str | None = None, repair: bool = False) -> Facts:
    """Facts on a checkpoint, a CT, a DICOM folder or a folder of CTs.

    `series`, `repair`: how DICOM is read, see `load_image`. Raises FileNotFoundError or ValueError
    where it is none of them or cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; correct the path")
    if (path / "last.pt").is_file():
        path = path / "last.pt"
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        return describe_checkpoint(path)
    scans, left_out = list_scans(path)
    if len(scans) > 1:
        facts: Facts = {"scans": len(scans)}
        facts |= {f"scan {scan.case_id}": scan.problem or scan.image for scan in scans}
        return facts | {f"left out {name}": reason for name, reason in left_out}
    return describe_scan(scans[0], series, repair)


def describe_checkpoint(path: Path) -> Facts:
    """What a checkpoint was trained as, on what, by which settings."""
    content = load_checkpoint(path)
    config, split = content["config"], content["split"]
    stage = config["stage"]
    weights = content["method"]
    network = [tensor for name, tensor in weights.items() if name.startswith("network.")]
    return {
        "checkpoint": path,
        "stage": f"{stage['name']}, finds the {stage['target']}",
        "method": config["method"],
        "sources": ", ".join(split["sources"]),
        "never saw": split["target"] or "-",
        "fold": "-" if split["fold"] is None else split["fold"],
        "seed": config["seed"],
        "cases trained on": len(split["train_cases"]),
        "steps": content["step"],
        "epochs": stage["epochs"],
        "spacing (z, y, x)": _millimeters(config["spacing"]),
        "width": config["width"],
        "numbers in the network": sum(tensor.numel() for tensor in network),
        "threshold": stage["threshold"],
        "training finished": "yes" if (path.parent / "done").is_file() else "not known",
        "made with": content.get("environment", {}).get("packages", {}).get("torch", "-"),
        "sha256": sha256_of(path),
        "notice": NOTICE,
    }


def describe_scan(scan: Scan, series: str | None = None, repair: bool = False) -> Facts:
    """A CT as it is read: its grid, its HU, what was unusual; of DICOM also its series."""
    facts: Facts = {"scan": scan.image}
    if scan.image.is_dir() and scan.problem is None:
        found = list_series(slice_folders(scan.image))
        facts |= {f"series #{number}": one for number, one in enumerate(found, 1)}
        usable = [one for one in found if not one.is_scout] or found
        if series is None and len(usable) > 1:
            return facts | {"to read one": "--series with its UID, or its number in this list"}
    return facts | describe_case(load_scan(scan, series, repair))


def describe_case(case: Case) -> Facts:
    """Grid, HU and warnings of a CT in memory."""
    grid = case.grid
    step = max(1, case.image_hu.size // 1_000_000)
    low, middle, high = np.percentile(case.image_hu.ravel()[::step], PERCENTILES)
    length = [n * mm for n, mm in zip(grid.size_xyz, grid.spacing_xyz, strict=True)]
    facts: Facts = {
        "size (x, y, z)": " x ".join(map(str, grid.size_xyz)),
        "spacing (x, y, z)": _millimeters(grid.spacing_xyz),
        "extent (x, y, z)": _millimeters(length),
        "origin (LPS)": _millimeters(grid.origin_xyz),
        "axes run to": axis_codes(case),
        "HU": f"{case.image_hu.min()} to {case.image_hu.max()}",
        "HU, percentiles 1, 50, 99": f"{low:.0f}, {middle:.0f}, {high:.0f}",
    }
    facts |= {name.replace("_", " "): value for name, value in case.acquisition.items()}
    facts["warnings"] = len(case.notes)
    return facts | {f"warning {number}": note for number, note in enumerate(case.notes, 1)}


def axis_codes(case: Case) -> str:
    """Where the file's x, y and z run to, nearest: LPS is left, posterior, superior."""
    mapping = grid_axis_map(case.grid)
    codes = [""] * 3
    for canonical, on_disk in enumerate(mapping.axes):  # canonical z, y, x run to S, P, L
        toward, away = ("SI", "PA", "LR")[canonical]
        codes[2 - on_disk] = away if canonical in mapping.flips else toward
    return "".join(codes)


def _millimeters(lengths: Any) -> str:
    return " x ".join(f"{float(length):.5g}" for length in lengths) + " mm"
