"""Synthetic centers on disk, in the layouts of real data sets; an interrupted run resumes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.phantom.centers import CENTERS, LIKE_TABLE_I, Center, with_lesion_free
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
    lesion_free: float = 0.0  # share of the cases of a center with lesions

    @property
    def drawn_as(self) -> Center:
        """Its center, with the share of lesion-free cases."""
        return with_lesion_free(CENTERS[self.center], self.lesion_free)

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
    phantom = make_phantom(job.center, job.index, job.size, job.seed, job.drawn_as)
    orientation = CENTERS[job.center].orientation
    image_path, label_path = job.files
    write_volume(to_disk_axes(phantom.label, phantom, orientation), label_path)
    write_volume(to_disk_axes(phantom.image_hu, phantom, orientation), image_path)


def make_centers(  # noqa: PLR0913
    out: Path,
    centers: Sequence[str] | None,
    cases: int | Mapping[str, int],
    size: str = "demo",
    seed: int = 2022,
    workers: int = 0,
    lesion_free: float = 0.0,
) -> Path:
    """Make `cases` cases of each of `centers` under `out`; returns `out`/centers.toml.

    `centers`: keys of `CENTERS`; None: those that differ as Table I's do. `cases` may give a number
    per center. `workers` processes share the work (0: this one). `lesion_free`: share of the cases
    of centers with lesions that have none; it changes no other case. Complete cases are kept; each
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
        with_lesion_free(CENTERS[name], lesion_free)
    settings = {"version": VERSION, "size": size, "seed": seed}
    settings |= {"lesion_free": lesion_free} if lesion_free else {}
    total = _record(out, settings, counts)
    for folder, _, _ in os.walk(out):
        remove_leftovers(Path(folder))
    jobs = [
        Job(out, name, i, size, seed, lesion_free) for name in names for i in range(counts[name])
    ]
    todo = [job for job in jobs if not job.done]
    try:
        if todo:
            run_jobs(make_case, todo, workers, "phantoms")
    finally:
        first = [Job(out, name, 0, size, seed, lesion_free) for name in total]
        path = _write_tables(first, total)
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


def _write_tables(first: Sequence[Job], total: Mapping[str, int]) -> Path:
    """Each layout's own description, cases.csv and centers.toml, of the complete cases.

    `first`: of each center its first case.
    """
    table = io.StringIO()
    rows = csv.DictWriter(table, FACTS, lineterminator="\n")
    rows.writeheader()
    text = "# Synthetic centers, made by data/phantom/make.py; no patient's data.\n"
    order = list(CENTERS)
    for of_center in sorted(first, key=lambda job: order.index(job.center)):
        for job in (replace(of_center, index=i) for i in range(total[of_center.center])):
            if job.done:
                case_id = job.files[1].name.split(".")[0]
                plan = plan_case(job.center, job.index, job.size, job.seed, job.drawn_as)
                rows.writerow({"center": job.center, "case_id": case_id, **plan.facts})
        text += "\n" + _describe(of_center.out, of_center.center)
    out = first[0].out
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
