"""Seconds of one CT from file to files on a CPU: read, four stages, masks and measures written.

    python benchmarks/bench_cascade.py [--size 100 512 512] [--width 8] [--mirrors]

A painted body as compressed NIfTI, and untrained networks that do their whole work; what they find
is taken from the brightness (`stand_ins.py`). `all_s` is the whole of `predict_scans` per case by
the process's own time; `without_networks_s` the same with networks that do no work: what reading,
resampling, masks and writing cost. The difference is the networks'; their multiply-accumulates are
beside it, with the seconds that these take at least at the machine's own rate of float32 products.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.machine import measure_bound
from benchmarks.stand_ins import NAME, WITHOUT_MIRRORS, Brightness, write_body, write_networks
from benchmarks.timing import peak_mib
from data.readers.scans import list_scans
from engine.predict_scans import Work, hash_checkpoints, predict_scans
from engine.scan_output import Stamp
from engine.stage_predictors import StagePredictors
from methods import METHODS
from models.backbone import ResidualEncoderDecoder
from models.complexity import count_complexity
from utils.arguments import Count
from utils.scripts import ArgumentParser
from utils.stages import STAGES

WIDTH = 32  # the paper's


class Counting(Brightness):
    """A `Brightness` that notes the size of every input."""

    inputs: ClassVar[list[tuple[int, int, int]]] = []

    def predict(self, image: torch.Tensor) -> torch.Tensor:
        z, y, x = image.shape[2:]
        self.inputs.append((z, y, x))
        return super().predict(image)


def measure(
    size: Sequence[int] = (100, 512, 512), width: int = 8, cases: int = 1, mirrors: bool = False
) -> dict[str, Any]:
    """Seconds per case, with networks at work and without; of a CT of `size` voxels (z, y, x).

    `mirrors`: all eight, as the protocol has them, else one: the networks' part is eight times
    that of one.
    """
    METHODS[NAME] = Counting
    found: dict[str, Any] = {"million_voxels": size[0] * size[1] * size[2] / 1e6, "width": width}
    stages = STAGES if mirrors else WITHOUT_MIRRORS
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        files = write_networks(folder, width, stages)
        work = Work(
            out=folder / "out",
            predictors=StagePredictors(files, torch.device("cpu")),
            stamp=Stamp(hash_checkpoints(files)),
            say=lambda text: None,
        )
        _predict(work, write_scan(folder / "small.nii.gz", (24, 64, 64)))  # imports
        path = write_scan(folder / "scan.nii.gz", size)
        found["file_mib"] = path.stat().st_size / 2**20
        for kind, idle in (("without_networks_s", True), ("all_s", False)):
            Counting.idle = idle
            found[kind] = min(_predict(work, path) for _ in range(cases))
        written = [path for path in work.out.rglob("*") if path.is_file()]
        found["written_mib"] = sum(path.stat().st_size for path in written) / 2**20
    found["networks_s"] = found["all_s"] - found["without_networks_s"]
    return {**found, **_bound(width, mirrors), "peak_mib": peak_mib()}


def write_scan(path: Path, size: Sequence[int]) -> Path:
    """A body as compressed NIfTI."""
    plain = path.with_suffix("")
    write_body(plain, size)
    nib.save(nib.load(plain), path)
    plain.unlink()
    return path


def _predict(work: Work, path: Path) -> float:
    """Seconds of one scan, anew."""
    shutil.rmtree(work.out, ignore_errors=True)
    Counting.inputs.clear()
    scans, _ = list_scans(path)
    started = time.process_time()
    failures = predict_scans(work, scans)
    seconds = time.process_time() - started
    if failures:
        raise ValueError(*failures.values())
    return seconds


def _bound(width: int, mirrors: bool) -> dict[str, Any]:
    """Of the last case: its passes, their multiply-accumulates, and the seconds these take at
    least; and the multiply-accumulates of the paper's width with all mirrors.
    """
    gmac, paper = (
        sum(_count(width_, side) for side in Counting.inputs) / 1e9 for width_ in (width, WIDTH)
    )
    more = 1 if mirrors else 2 ** len(STAGES["tumor_fine"].mirror_axes)
    return {
        "passes": len(Counting.inputs),
        "network_gmac": gmac,
        "networks_least_s": gmac / measure_bound()["fp32_gmac_per_s"],
        "paper_network_gmac": more * paper,
    }


@functools.cache
def _count(width: int, side: tuple[int, int, int]) -> int:
    with torch.device("meta"):
        return count_complexity(ResidualEncoderDecoder(width=width), [side]).macs


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", type=Count, nargs=3, default=(100, 512, 512), help="voxels (z, y, x)")
    add("--width", type=Count, default=8)
    add("--cases", type=Count, default=1, help="the fastest counts")
    add("--mirrors", action="store_true", help="all eight")
    asked = parser.parse_args(argv)
    for name, value in measure(asked.size, asked.width, asked.cases, asked.mirrors).items():
        print(f"{name:20} {value:.3f}")


if __name__ == "__main__":
    main()
