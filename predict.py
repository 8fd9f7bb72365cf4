"""A CT in, masks and measures out: python predict.py INPUT -o OUT --checkpoints DIR

INPUT is a NIfTI, NRRD or MetaImage file, a folder with a DICOM series, a folder of any of these (a
scan each), or a CSV file with a column "path" and, if wanted, "case" and "pancreas". OUT/<case>/
gets a mask for each stage on the grid of the input, measures.json and manifest.json, with
--dicom-seg also segmentation.dcm; OUT/ gets measures.csv, with --report also report.html. The same
command again does only what is missing. Research use only; this is no medical device.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's GPU lacks, the CPU does

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.readers.scans import Scan, give_masks, list_scans
from engine.describe_file import describe_file
from engine.predict_scans import Failures, ReadOptions, Work, hash_checkpoints, predict_scans
from engine.run_folders import locked
from engine.scan_output import FORMATS, OutputOptions, Stamp
from engine.scan_segmentation import check_segmentation
from engine.stage_predictors import StagePredictors, find_checkpoints
from report.page import build_report
from report.predicted import predicted_contents, read_predicted
from utils.arguments import Count
from utils.commands import default_path
from utils.config import PRECISIONS, SMALLEST_INPUT
from utils.device import select_device
from utils.scripts import ArgumentParser, run_script
from utils.stages import STAGE_NAMES

REPORT = "report.html"


def main(args: argparse.Namespace) -> None:
    """Predict what is asked for; exits with status 1 where one of several scans failed."""
    if args.info is not None:
        for name, value in describe_file(args.info, args.series, args.repair).items():
            print(f"{name}: {value}")
        return
    scans = read_list(args)
    if args.dicom_seg:
        check_segmentation(scans)
    work = prepare_work(args, scans)
    args.out.mkdir(parents=True, exist_ok=True)
    with locked(args.out):
        failures = predict_scans(work, scans)
        if args.report:
            write_report(work, scans, failures, args.input)
    if failures and len(scans) == 1:
        raise ValueError(*failures.values())
    print(f"{len(scans) - len(failures)} of {len(scans)} scans are in {args.out}")
    for case_id, cause in failures.items():
        print(f"FAILED {case_id}: {cause}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


def read_list(args: argparse.Namespace) -> list[Scan]:
    """The scans, each with the pancreas mask that --pancreas has for it."""
    scans, left_out = list_scans(args.input, ignored=[args.out])
    for path, reason in left_out:
        print(f"left out: {path} {reason}", file=sys.stderr)
    return scans if args.pancreas is None else give_masks(scans, args.pancreas)


def prepare_work(args: argparse.Namespace, scans: Sequence[Scan]) -> Work:
    """The checkpoints that are taken, which are printed, and how each scan goes through them."""
    device = select_device(args.device, mps=True)
    all_have_masks = all(scan.pancreas is not None for scan in scans)
    checkpoints = find_checkpoints(args.checkpoints, args.stages, all_have_masks)
    for stage, path in checkpoints.items():
        print(f"{stage}: {path}")
    return Work(
        out=args.out,
        predictors=StagePredictors(checkpoints, device, args.precision, args.window_voxels),
        stamp=Stamp(hash_checkpoints(checkpoints)),
        thresholds={name: args.threshold[name] for name in checkpoints if name in args.threshold},
        read=ReadOptions(args.series, args.repair, args.pancreas_label),
        output=OutputOptions(args.format, args.probabilities, args.dicom_seg),
        command=args.command,
    )


def write_report(work: Work, scans: Sequence[Scan], failures: Failures, given: Path) -> None:
    """OUT/report.html: every scan of this call, those done before and those that failed too."""
    contents = predicted_contents(
        f"Prediction of {given.resolve().name}",
        read_predicted(work.out, scans, failures, work.read),
        facts={"command": work.command, "input": str(given)},
        checkpoints=work.stamp.checkpoints,
    )
    print(build_report(work.out / REPORT, contents))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; exits with a message for wrong values."""
    parser = ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "input", nargs="?", type=Path, help="a CT, a DICOM folder, a folder of scans, or a CSV file"
    )
    add("-o", "--out", type=Path, help="folder for the results")
    checkpoints = (
        "folder of run folders (the newest that belong together), or a file for each stage"
    )
    default = [default_path("checkpoints")]
    add("--checkpoints", nargs="+", type=Path, default=default, metavar="PATH", help=checkpoints)
    add("--stages", nargs="+", choices=STAGE_NAMES, help="default: all that are needed")
    pancreas = "mask that stands for the pancreas stages, or a folder of masks named as the scans"
    add("--pancreas", type=Path, metavar="MASK", help=pancreas)
    add(
        "--pancreas-label",
        type=Count,
        metavar="N",
        help="its value in the mask; default: any but 0",
    )
    add("--series", help="of several DICOM series: UID, number in the list, or part of its name")
    repair = (
        "resample irregular DICOM (tilted gantry, uneven or missing slices), else it is refused"
    )
    add("--repair", action="store_true", help=repair)
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one")
    add("--precision", choices=PRECISIONS, default="auto", help="arithmetic; auto: fp32 on a CPU")
    windows = "cut larger crops into windows of so many voxels; default: by memory"
    add("--window-voxels", type=Count, metavar="N", help=windows)
    threshold = "probability above which a voxel counts: P for all stages, STAGE=P for one"
    add("--threshold", nargs="+", default=[], metavar="P", help=threshold)
    add_outputs(parser)
    info = "say what a checkpoint or a CT is, and do nothing else"
    add("--info", type=Path, metavar="FILE", help=info)
    args = parser.parse_args(argv)
    words = sys.argv[1:] if argv is None else argv
    args.command = f"python predict.py {shlex.join(words)}"
    if args.info is None and (args.input is None or args.out is None):
        parser.error("give INPUT and -o OUT, or --info FILE")
    if args.window_voxels is not None and args.window_voxels < SMALLEST_INPUT:
        parser.error(f"--window-voxels {args.window_voxels}: at least {SMALLEST_INPUT}")
    if args.series is not None and args.series.isdigit():
        args.series = f"#{args.series}"
    try:
        args.threshold = parse_thresholds(args.threshold)
    except ValueError as error:
        parser.error(str(error))
    return args


def add_outputs(parser: ArgumentParser) -> None:
    """Options on what is written besides masks and measures."""
    add = parser.add_argument
    add("--probabilities", action="store_true", help="write each stage's probability too")
    add("--format", choices=FORMATS, default=FORMATS[0], help="of masks (default: nii.gz)")
    dicom_seg = "of a DICOM series also segmentation.dcm, for a workstation (needs highdicom)"
    add("--dicom-seg", action="store_true", help=dicom_seg)
    report = "also report.html: one page with pictures, measures and a viewer of all scans"
    add("--report", action="store_true", help=report)


def parse_thresholds(words: Sequence[str]) -> dict[str, float]:
    """["0.3", "tumor_fine=0.4"] -> by stage; raises ValueError."""
    found: dict[str, float] = {}
    for word in sorted(words, key=lambda text: "=" in text):  # those of one stage win
        name, equals, number = word.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not 0 < value < 1 or (equals and name not in STAGE_NAMES):
            raise ValueError(
                f"--threshold {word}: a number between 0 and 1, or STAGE=NUMBER with a stage of "
                f"{', '.join(STAGE_NAMES)}"
            )
        found |= dict.fromkeys([name] if equals else STAGE_NAMES, value)
    return found


if __name__ == "__main__":
    try:
        run_script(main, parse())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
