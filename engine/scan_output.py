"""What is written of one predicted scan: masks, probabilities, measures, and what made them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.case import Case
from data.readers.masks import DESCRIP, write_mask, write_volume
from data.readers.repair import REPAIRED
from engine.cascade import Prediction
from engine.scan_measures import Measures, measure_stage
from utils.about import NOTICE, software
from utils.files import append_text, write_json, write_text

MANIFEST, MEASURES, TABLE = "manifest.json", "measures.json", "measures.csv"
SEGMENTATION = "segmentation.dcm"  # see engine/scan_segmentation.py
FORMATS = ("nii.gz", "nrrd")
COLUMNS = (
    *("case", "stage", "target", "volume_ml", "longest_axis_mm"),
    *("centroid_x_lps_mm", "centroid_y_lps_mm", "centroid_z_lps_mm", "mean_hu"),
    *("roi_start_voxels", "roi_stop_voxels", "highest_probability", "threshold", "fallback"),
    *("rounds", "windows", "arithmetic", "seconds", "peak_memory_mib", "warnings"),
    *("software", "checkpoint_sha256", "notice"),
)


@dataclass(frozen=True)
class Stamp:
    """What every output says: the software, the weights (sha256 by stage), and what it is not."""

    checkpoints: Mapping[str, str]
    software: str = field(default_factory=software)
    notice: str = NOTICE

    def header(self, stage: str) -> dict[str, str]:
        """Texts for the header of an image; NIfTI's, of 79 characters, has the hash's beginning."""
        digest = self.checkpoints[stage]
        return {
            DESCRIP: f"{self.software}; {digest[:12]}; {self.notice}"[:79],
            "software": self.software,
            "checkpoint_sha256": digest,
            "notice": self.notice,
        }

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "software": self.software,
            "notice": self.notice,
            "checkpoints_sha256": dict(self.checkpoints),
        }


@dataclass(frozen=True)
class OutputOptions:
    """`suffix`: one of `FORMATS`. `probabilities`: also each stage's, float32. `dicom_seg`: also
    the masks as one DICOM SEG, where the scan is DICOM.
    """

    suffix: str = FORMATS[0]
    probabilities: bool = False
    dicom_seg: bool = False


def write_outputs(
    case: Case,
    found: Mapping[str, Prediction],
    folder: Path,
    stamp: Stamp,
    options: OutputOptions,
    facts: Mapping[str, Any],
) -> list[str]:
    """Write all of one scan but its manifest into `folder`; the names of the files.

    Masks are on the grid of the input; that of a repaired series is the resampled one, and the
    image is written too. `facts`: more for measures.json (input, seconds, warnings).
    """
    names = []
    for stage, prediction in found.items():
        header = stamp.header(stage)
        names.append(f"{stage}.{options.suffix}")
        write_mask(folder / names[-1], prediction.mask, case.grid, header)
        if options.probabilities:
            names.append(f"{stage}_probability.{options.suffix}")
            write_volume(folder / names[-1], prediction.prob, case.grid, header)
    if repairs_of(case):
        names.append(f"image.{options.suffix}")
        header = stamp.header(next(iter(found)))
        write_volume(folder / names[-1], case.image_hu, case.grid, header)
    measures = {
        "case": case.case_id,
        **stamp.facts(),
        **facts,
        "repaired": repairs_of(case),
        "stages": {stage: measure_stage(case, prediction) for stage, prediction in found.items()},
    }
    write_json(folder / MEASURES, measures)
    return [*names, MEASURES]


def repairs_of(case: Case) -> list[str]:
    """What was resampled on reading; empty where the file was read as it is."""
    return [note for note in case.notes if note.startswith(REPAIRED)]


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """The last file of a scan: what stands in it is there."""
    write_json(folder / MANIFEST, dict(content))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` wrote, where all its files are there; else empty.

    A missing segmentation.dcm, which the masks can make again, is only left out of the outputs.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        there = [name for name in content["outputs"] if (folder / name).is_file()]
        whole = set(content["outputs"]) <= {*there, SEGMENTATION}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {**content, "outputs": there} if whole else {}


def mask_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    """The masks that a manifest lists, by stage, in the order of the stages."""
    suffix = manifest["request"]["format"]
    return {stage: folder / f"{stage}.{suffix}" for stage in manifest["checkpoints"]}


def remove_outputs(folder: Path) -> None:
    """Delete what an earlier call wrote into `folder`, and nothing else: its manifest first."""
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["outputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    (folder / MANIFEST).unlink()
    for name in {*names, SEGMENTATION}:  # that one is entered after it was written
        (folder / Path(name).name).unlink(missing_ok=True)


class ScanTable:
    """measures.csv: a row for each stage of each finished scan in a folder.

    While scans are predicted their rows are added behind the others, at a cost that does not grow
    with the table; `finish` writes all anew, in the order of the scans' names. A killed process
    leaves the rows of what was finished, and the next one begins with a whole table.
    """

    def __init__(self, out: Path, asked: Iterable[str]) -> None:
        """Write the table of what is finished in `out`; `asked`: the scans of this call."""
        self._out = out
        self._open = set(asked)  # what an earlier call has found of them may no longer be true
        self._lines = {folder.name: _lines(folder) for folder in _finished(out)}
        self._write()

    def keep(self, case_id: str) -> None:
        """The outputs of an earlier call are still true."""
        self._open.discard(case_id)
        if case_id not in self._lines:
            self._add(case_id)

    def replace(self, case_id: str) -> None:
        """A scan has new outputs, or none, in place of those of an earlier call.

        The first one that had any takes the rows of all scans with it of which it is not known yet
        whether they are kept, so that the table is written anew but once.
        """
        self._open.discard(case_id)
        if case_id in self._lines:
            gone = {case_id, *self._open}
            self._lines = {name: text for name, text in self._lines.items() if name not in gone}
            self._write()
        if read_manifest(self._out / case_id):
            self._add(case_id)

    def finish(self) -> None:
        """Write what is finished by now, by this process or another one, in order."""
        self._lines = {folder.name: _lines(folder) for folder in _finished(self._out)}
        self._write()

    def _add(self, case_id: str) -> None:
        self._lines[case_id] = _lines(self._out / case_id)
        if (self._out / TABLE).is_file():
            append_text(self._out / TABLE, self._lines[case_id])
        else:
            self._write()

    def _write(self) -> None:
        write_text(self._out / TABLE, ",".join(COLUMNS) + "\n" + "".join(self._lines.values()))


def _finished(out: Path) -> list[Path]:
    folders = sorted(path.parent for path in out.glob(f"*/{MANIFEST}"))
    return [folder for folder in folders if read_manifest(folder)]


def _lines(folder: Path) -> str:
    """The rows of a finished scan, as lines of the table."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writerows(_rows(json.loads((folder / MEASURES).read_text(encoding="utf-8"))))
    return buffer.getvalue()


def _rows(content: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for stage, measures in content["stages"].items():
        row: Measures = {name: measures.get(name) for name in COLUMNS}
        row |= {"case": content["case"], "stage": stage}
        centroid = measures["centroid_lps_mm"] or (None, None, None)
        for axis, length in zip("xyz", centroid, strict=True):
            row[f"centroid_{axis}_lps_mm"] = length
        for end in ("start", "stop"):
            row[f"roi_{end}_voxels"] = " ".join(map(str, measures["roi_box"][end]))
        row |= {name: content[name] for name in ("software", "notice", "peak_memory_mib")}
        row["checkpoint_sha256"] = content["checkpoints_sha256"][stage]
        row["warnings"] = "; ".join(content["warnings"])
        rows.append({name: _cell(value) for name, value in row.items()})
    return rows


def _cell(value: Any) -> str:
    """A value as text; what a spreadsheet would take for a formula is none."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
