"""Seconds of one case in data/check.py: read and judged, and remembered; and of preparing it.

    python benchmarks/bench_check.py [--size full] [--cases 2]

On synthetic CTs as files; of the size full they have 512 x 512 voxels a slice. By the process's own
time, per case. `read_s` is reading the image and the label alone, `prepare_s` reading, resampling
and storing; `stored_mib` is what a case takes in the cache, `facts_kib` what the check remembers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.timing import peak_mib
from data.case import Case
from data.centers import load_centers
from data.phantom.make_centers import make_centers
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PrepareSettings
from data.quality.facts_cache import FOLDER
from data.quality.findings import CheckSettings, check_centers
from data.readers import list_cases, load_case
from utils.arguments import Count
from utils.scripts import ArgumentParser

CENTER = "SYN-A"


def measure(size: str = "full", cases: int = 2) -> dict[str, Any]:
    """Seconds per case of each step, in their order, and sizes; MiB and KiB per case."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        centers = load_centers(make_centers(folder / "data", [CENTER], cases, size))
        center, cache = centers[CENTER], folder / "cache"
        settings = CheckSettings(folder / "check", cache)

        def read() -> list[Case]:
            return [load_case(center, files) for files in list_cases(center)]

        shapes = [case.image_hu.shape for case in read()]
        found: dict[str, Any] = {"size": size, "million_voxels": 0.0}
        found["million_voxels"] = sum(z * y * x for z, y, x in shapes) / cases / 1e6
        found["slices"] = sum(shape[0] for shape in shapes) / cases
        steps: dict[str, Callable[[], Any]] = {
            "read_s": read,
            "check_s": lambda: check_centers(centers, settings),
            "remembered_s": lambda: check_centers(centers, settings),
            "prepare_s": lambda: prepare_centers([center], cache, PrepareSettings()),
            "prepared_s": lambda: prepare_centers([center], cache, PrepareSettings()),
        }
        for step, action in steps.items():
            started = time.process_time()
            action()
            found[step] = (time.process_time() - started) / cases
        found["files_mib"] = _bytes(folder / "data") / cases / 2**20
        found["facts_kib"] = _bytes(cache / FOLDER) / cases / 2**10
        found["stored_mib"] = _bytes(cache / CENTER) / cases / 2**20
    return {**found, "peak_mib": peak_mib()}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("demo", "full"), default="full")
    parser.add_argument("--cases", type=Count, default=2)
    asked = parser.parse_args(argv)
    for name, value in measure(asked.size, asked.cases).items():
        print(f"{name:16} {value if isinstance(value, str) else f'{value:.3f}'}")


if __name__ == "__main__":
    main()
