"""Seconds of one CT from file to files: read, four stages, masks and measures written.

    python benchmarks/bench_cascade.py [--size 100 512 512] [--width 8] [--mirrors]
    python benchmarks/bench_cascade.py --device cuda --width 32 --mirrors --cases 3 --row 8

A painted body as compressed NIfTI, and untrained networks that do their whole work; what they find
is taken from the brightness (`stand_ins.py`). `all_s` is the whole of `predict_scans` for it, by
the process's own time on a CPU and by the clock on a GPU; `without_networks_s` the same with
networks that do no work: what reading, resampling, masks and writing cost. The difference is the
networks' (on a GPU, where it is less than the scatter of the rest, what their passes take by the
clock); their multiply-accumulates are beside it, with the seconds that these take at least at the
machine's own rate of products, in the arithmetic that it predicts in. `tumor_networks_s`: of the
two tumor stages alone, on a GPU. `in_a_row_s`: per CT, of `row` of them in one call;
on a GPU one is then read and one written while another is segmented.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
from utils.device import device_name, select_device
from utils.scripts import ArgumentParser
from utils.stages import STAGES

WIDTH = 32  # the paper's


class Counting(Brightness):
    """A `Brightness` that notes the size of every input."""

    inputs: ClassVar[list[tuple[int, int, int]]] = []
    seconds: ClassVar[dict[str, float]] = {}  # on a GPU: of the passes, by stage

    def predict(self, image: torch.Tensor) -> torch.Tensor:
        z, y, x = image.shape[2:]
        self.inputs.extend([(z, y, x)] * len(image))
        if not image.is_cuda:
            return super().predict(image)
        torch.cuda.synchronize()
        started = time.perf_counter()
        found = super().predict(image)
        torch.cuda.synchronize()
        taken = time.perf_counter() - started
        self.seconds[self.stage.name] = self.seconds.get(self.stage.name, 0.0) + taken
        return found


def measure(
    size: Sequence[int] = (100, 512, 512),
    width: int = 8,
    cases: int = 1,
    mirrors: bool = False,
    device: str = "cpu",
    row: int = 0,
) -> dict[str, Any]:
    """Seconds per case, with networks at work and without; of a CT of `size` voxels (z, y, x).

    `mirrors`: all eight, as the protocol has them, else one: the networks' part is eight times
    that of one. `cases`: the fastest of so many counts. `row`: CTs of one call; 0: not measured.
    """
    METHODS[NAME] = Counting
    place = select_device(device)
    found: dict[str, Any] = {"million_voxels": size[0] * size[1] * size[2] / 1e6, "width": width}
    found["device"] = device_name(place)
    stages = STAGES if mirrors else WITHOUT_MIRRORS
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        files = write_networks(folder, width, stages)
        work = Work(
            out=folder / "out",
            predictors=StagePredictors(files, place),
            stamp=Stamp(hash_checkpoints(files)),
            say=lambda text: None,
        )
        _predict(work, [write_scan(folder / "small.nii.gz", (24, 64, 64))])  # imports
        path = write_scan(folder / "scan.nii.gz", size)
        if place.type == "cuda":
            _predict(work, [path])  # its kernels are loaded, and its memory is taken
        found["file_mib"] = path.stat().st_size / 2**20
        for kind, idle in (("without_networks_s", True), ("all_s", False)):
            Counting.idle = idle
            found[kind] = min(_predict(work, [path]) for _ in range(cases))
        found |= _networks(found["all_s"] - found["without_networks_s"])
        passes = _bound(width, mirrors, work.predictors)
        written = [path for path in work.out.rglob("*") if path.is_file()]
        found["written_mib"] = sum(path.stat().st_size for path in written) / 2**20
        if row:
            copies = [folder / f"scan_{number}.nii.gz" for number in range(row)]
            for copy in copies:
                copy.hardlink_to(path)
            found["in_a_row_s"] = _predict(work, copies) / row
    return {**found, **passes, "peak_mib": peak_mib()}


def _networks(difference: float) -> dict[str, float]:
    """Of the last case: the networks' seconds; on a GPU those of its passes, where others wait."""
    if not Counting.seconds:
        return {"networks_s": difference}
    tumor = [taken for name, taken in Counting.seconds.items() if STAGES[name].target == "tumor"]
    return {"networks_s": sum(Counting.seconds.values()), "tumor_networks_s": sum(tumor)}


def write_scan(path: Path, size: Sequence[int]) -> Path:
    """A body as compressed NIfTI."""
    plain = path.with_suffix("")
    write_body(plain, size)
    nib.save(nib.load(plain), path)
    plain.unlink()
    return path


def _predict(work: Work, paths: Sequence[Path]) -> float:
    """Seconds of some scans, anew."""
    shutil.rmtree(work.out, ignore_errors=True)
    Counting.inputs.clear()
    Counting.seconds.clear()
    scans = [scan for path in paths for scan in list_scans(path)[0]]
    on_gpu = work.predictors.device.type == "cuda"
    clock: Callable[[], float] = time.perf_counter if on_gpu else time.process_time
    started = clock()
    failures = predict_scans(work, scans)
    seconds = clock() - started
    if failures:
        raise ValueError(*failures.values())
    return seconds


def _bound(width: int, mirrors: bool, predictors: StagePredictors) -> dict[str, Any]:
    """Of the last case: its passes, their multiply-accumulates, and the seconds these take at
    least; and the multiply-accumulates of the paper's width with all mirrors.
    """
    gmac, paper = (
        sum(_count(width_, side) for side in Counting.inputs) / 1e9 for width_ in (width, WIDTH)
    )
    rate = f"{predictors.precision}_gmac_per_s"
    more = 1 if mirrors else 2 ** len(STAGES["tumor_fine"].mirror_axes)
    return {
        "passes": len(Counting.inputs),
        "network_gmac": gmac,
        "networks_least_s": gmac / measure_bound(predictors.device)[rate],
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
    add("--device", default="cpu")
    add("--row", type=Count, default=0, help="CTs of one call (default: 0, not measured)")
    for name, value in measure(**vars(parser.parse_args(argv))).items():
        print(f"{name:20} {value if isinstance(value, str) else format(value, '.3f')}")


if __name__ == "__main__":
    main()
