"""Synthetic centers on disk, in the layouts of real data sets; an interrupted run resumes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.phantom.centers import CENTERS, LIKE_TABLE_I
from data.phantom.generate import make_phantom, plan_case
from data.phantom.layouts import LAYOUTS, to_disk_axes, write_volume
from data.prepare.parallel import run_jobs
from utils.files import read_json, write_json, write_text
from utils.leftovers import remove_leftovers

VERSION = 4  # of the generator: raised when the same seed gives other voxels
FACTS = ("center", "case_id", "lesion", "region", "diameter_mm", "stent", "phase", "noise_hu")


@dataclass(frozen=True)
class Job:
    """One case to be made."""

    out: Path
    center: str
    index: int
    size: str
    seed: int

    @property
    def files(self) -> tuple[Path, Path]:
        """Where its image and its label go."""
        layout = LAYOUTS[CENTERS[self.center].layout]
        return layout.files(self.out / self.center, self.center, self.index + 1)

    @property
    def done(self) -> bool:
        """The image is written last: with it, the case is complete."""
        return all(path.exists() for path in self.files)


def make_case(job: Job) -> None:
    """Draw a case and write its label, then its image."""
    phantom = make_phantom(job.center, job.index, job.size, job.seed)
    orientation = CENTERS[job.center].orientation
    image_path, label_path = job.files
    write_volume(to_disk_axes(phantom.label, phantom, orientation), label_path)
    write_volume(to_disk_axes(phantom.image_hu, phantom, orientation), image_path)


def make_centers(
    out: Path,
    centers: Sequence[str] | None,
    cases: int | Mapping[str, int],
    size: str = "demo",
    seed: int = 2022,
    workers: int = 0,
) -> Path:
    """Make `cases` cases of each of `centers` under `out`; returns `out`/centers.toml.

    `centers`: keys of `CENTERS`; None: those that differ as Table I's do. `cases` may give a number
    per center. `workers` processes share the work (0: this one). Complete cases are kept; each
    depends on seed, center and its number only. Raises `ValueError` for unknown names, and where
    `out` holds cases of another size, seed or generator. Whatever ends it, centers.toml and
    cases.csv are those of the cases that are there.
    """
    out = Path(out)
    names = list(LIKE_TABLE_I if centers is None else centers)
    counts = {name: cases if isinstance(cases, int) else cases.get(name, 0) for name in names}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: asked for {count} cases; ask for one at least")
        plan_case(name, 0, size, seed)
    settings = {"version": VERSION, "size": size, "seed": seed}
    total = _record(out, settings, counts)
    for folder, _, _ in os.walk(out):
        remove_leftovers(Path(folder))
    jobs = [Job(out, name, i, size, seed) for name in names for i in range(counts[name])]
    todo = [job for job in jobs if not job.done]
    try:
        if todo:
            run_jobs(make_case, todo, workers, "phantoms")
    finally:
        path = _write_tables(out, total, size, seed)
    return path


def _record(out: Path, settings: dict, counts: dict[str, int]) -> dict[str, int]:
    """Compare with and update OUT/phantom.json; returns how many cases each center has in all."""
    path = out / "phantom.json"
    total = dict(counts)
    if path.exists():
        cure = "remove the folder, or give another one"
        before = read_json(path, cure, ("settings", "cases"))
        if before["settings"] != settings:
            raise ValueError(
                f"{out} holds phantoms made with {before['settings']}, not {settings}; "
                "choose another folder or remove this one"
            )
        for name, count in before["cases"].items():
            if name in CENTERS:
                total[name] = max(count, total.get(name, 0))
    write_json(path, {"settings": settings, "cases": total})
    return total


def _write_tables(out: Path, total: dict[str, int], size: str, seed: int) -> Path:
    """Each layout's own description, cases.csv and centers.toml, of the complete cases."""
    table = io.StringIO()
    rows = csv.DictWriter(table, FACTS, lineterminator="\n")
    rows.writeheader()
    text = "# Synthetic centers, made by data/phantom/make.py; no patient's data.\n"
    for name in sorted(total, key=list(CENTERS).index):
        jobs = [Job(out, name, i, size, seed) for i in range(total[name])]
        for job in jobs:
            if job.done:
                case_id = job.files[1].name.split(".")[0]
                facts = plan_case(name, job.index, size, seed).facts
                rows.writerow({"center": name, "case_id": case_id, **facts})
        text += "\n" + _describe(out, name)
    write_text(out / "cases.csv", table.getvalue())
    write_text(out / "centers.toml", text)
    return out / "centers.toml"


def _describe(out: Path, name: str) -> str:
    center = CENTERS[name]
    layout, has_lesions = LAYOUTS[center.layout], center.lesions is not None
    layout.describe(out / name, name, has_lesions)
    keys = layout.keys(name, has_lesions) | {"has_lesions": has_lesions}
    if center.tumor_threshold is not None:
        keys["tumor_threshold"] = center.tumor_threshold
    lines = [f"{key} = {_toml(value)}" for key, value in keys.items()]
    return "\n".join([f"[centers.{name}]", *lines]) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)
