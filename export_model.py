"""Trained stages in formats that others run: ONNX files, or a MONAI bundle.

python export_model.py onnx CHECKPOINT [CHECKPOINT ...] --out FOLDER
python export_model.py bundle CHECKPOINT [CHECKPOINT ...] --out FOLDER

A CHECKPOINT is a run folder, or the last.pt in it. `onnx` writes a file for each stage and
run_onnx.py, which runs them with numpy and onnxruntime alone. `bundle` writes one folder with the
stages in order, which `python -m monai.bundle run` predicts with. Both need
requirements-export.txt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import utils.script_start  # noqa: F401 - a signal ends it in one line
from engine.bundle import export_bundle
from engine.export import export_onnx
from engine.inference import load_predictor
from utils.about import NOTICE
from utils.scripts import ArgumentParser, run_script


def main(given: Sequence[str] | None = None) -> None:
    """Parse, export, say what was written."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("onnx", "bundle"), help="what to write")
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    run_script(export, parser.parse_args(given))


def export(arguments: argparse.Namespace) -> None:
    """Write what the command line asks for."""
    stages = find_stages(arguments.checkpoints)
    if arguments.kind == "bundle":
        export_bundle(stages, arguments.out)
        print(f"{arguments.out}: {', '.join(stages)}. See docs/README.md there. {NOTICE}")
        return
    for stage, checkpoint in stages.items():
        path = arguments.out / f"{stage}.onnx"
        export_onnx(checkpoint, path, stage=stage)
        print(f"{path}: run it by python {path.with_name('run_onnx.py')} {path}. {NOTICE}")


def find_stages(given: Sequence[Path]) -> dict[str, Path]:
    """The checkpoint files by stage. Raises ValueError for two of one stage."""
    stages: dict[str, Path] = {}
    for path in given:
        file = path / "last.pt" if path.is_dir() else path
        stage = load_predictor(file, "cpu", "fp32").stage.name
        if stage in stages:
            raise ValueError(f"{file}: {stage} is {stages[stage]} already; give one of each stage")
        stages[stage] = file
    return stages


if __name__ == "__main__":
    main()
