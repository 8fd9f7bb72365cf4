"""Finished evaluations on disk: which there are, what they were read from, their masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.case import Center
from data.centers import load_centers
from data.readers import CaseFiles, list_cases, load_case
from data.readers.masks import read_mask
from engine.case_metrics import Row, read_cases
from engine.run_folders import Run, read_run
from methods import METHODS, read_config
from report.contents import CaseImages, Layer
from report.volumes import MAX_LAYERS
from reproduce.analysis.paper_tables import ROW_NAMES
from utils.stages import STAGE_NAMES, STAGES

# Rows with the same of these are one result on the page, whatever their center and fold.
GROUPED_BY = ("stage", "method", "seed", "roi_source", "threshold_source", "tested_cases")
Group = tuple[Any, ...]


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation: its folder, what it was made from (origin.json), its cases."""

    folder: Path
    origin: Mapping[str, Any] = field(repr=False)
    rows: Sequence[Row] = field(repr=False)
    run: Run = field(repr=False)

    @property
    def group(self) -> Group:
        """Equal for evaluations that are one result on the page."""
        return tuple(self.origin.get(name) for name in GROUPED_BY)

    @property
    def center(self) -> str:
        """Whose cases these are."""
        return str(self.origin["target"])

    @property
    def previous(self) -> Path | None:
        """The folder of the evaluation whose masks this one has read."""
        name = self.origin.get("previous")
        return None if name is None else self.folder.parent.parent / name

    def mask_path(self, case_id: str) -> Path:
        """Where the mask of a case is."""
        return self.folder / "predictions" / f"{case_id}.nii.gz"


def read_evaluated(folder: Path) -> Evaluated:
    """The evaluation in `folder`. Raises FileNotFoundError where it is missing or unfinished."""
    run = read_run(folder.parent)
    if run is None or not (folder / "done").is_file() or not (folder / "origin.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no finished evaluation (a folder evaluation_... of a run, with its file "
            "done); give the command of the evaluation again, it resumes"
        )
    origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    return Evaluated(folder, origin, read_cases(folder / "cases.csv"), run)


def find_evaluated(run_folders: Iterable[Path]) -> list[Evaluated]:
    """The finished evaluations of these runs."""
    folders = [path for run in run_folders for path in sorted(run.glob("evaluation_*"))]
    return [read_evaluated(path) for path in folders if (path / "done").is_file()]


def with_previous(evaluations: Sequence[Evaluated]) -> list[Evaluated]:
    """These, and those that they were read from as far as these are there; each once."""
    found = {item.folder.resolve(): item for item in evaluations}
    for item in evaluations:
        for earlier in chain_of(item)[1:]:
            found.setdefault(earlier.folder.resolve(), earlier)
    return list(found.values())


def chain_of(item: Evaluated) -> list[Evaluated]:
    """An evaluation, the one before it, and so on."""
    chain = [item]
    while (folder := chain[-1].previous) is not None and (folder / "done").is_file():
        chain.append(read_evaluated(folder))
    return chain


def page_order(item: Evaluated) -> tuple[Any, ...]:
    """Sorts evaluations as the page shows them: the fine tumor stage of the default method, tested
    as the paper does, first.
    """
    origin = item.origin
    return (
        origin["tested_cases"] != "test",
        -STAGE_NAMES.index(origin["stage"]),
        origin["threshold_source"] == "source-val",
        origin["roi_source"] != "seg",
        _method_rank(str(origin["method"])),
        origin["seed"] or 0,
        item.center,
    )


def _method_rank(method: str) -> tuple[bool, int]:
    names = list(METHODS)
    return method != "ours", names.index(method) if method in names else len(names)


def name_groups(groups: Iterable[Group]) -> dict[Group, str]:
    """What the page calls each result: its stage, and what tells it from the others."""
    groups = list(dict.fromkeys(groups))
    several = [len({group[n] for group in groups}) > 1 for n in range(len(GROUPED_BY))]
    names = {}
    for group in groups:
        stage, method, seed, roi_source, threshold, cases = group
        parts = [str(stage).replace("_", " ")]
        if several[1]:
            parts.append(ROW_NAMES.get(method, str(method)))
        if roi_source == "mask":
            parts.append("pancreas given")
        if threshold == "source-val":
            parts.append("threshold of the sources")
        if cases == "heldout":
            parts.append("held-out cases")
        if several[2]:
            parts.append(f"seed {seed}")
        names[group] = ", ".join(parts)
    return names


@dataclass(frozen=True)
class Images:
    """Reads the images and labels of evaluated cases.

    `centers`: by name, from centers.toml. `files`: center -> case -> its files.
    """

    centers: Mapping[str, Center]
    files: Mapping[str, Mapping[str, CaseFiles]] = field(repr=False)

    @classmethod
    def of(cls, evaluations: Sequence[Evaluated], centers: Path | None) -> Images:
        """With the centers.toml that is given, or that the first run was trained with.

        Raises ValueError where that is missing or lacks a center.
        """
        path = centers or read_config(evaluations[0].run.folder / "config.json").centers
        if not path.is_file():
            raise ValueError(
                f"{path}: the centers that {evaluations[0].run.folder.name} was trained with are "
                "not there; give --centers FILE, or --no-images for a page of numbers"
            )
        known = load_centers(path)
        names = dict.fromkeys(item.center for item in evaluations)
        lacking = sorted(set(names) - set(known))
        if lacking:
            raise ValueError(
                f"{path}: has no center {', '.join(lacking)}; give another --centers, or "
                "--no-images for a page of numbers"
            )
        listed = {name: list_cases(known[name]) for name in names}
        return cls(known, {name: {f.case_id: f for f in files} for name, files in listed.items()})

    def load(
        self, center: str, case_id: str, layers: Sequence[tuple[str, Evaluated]]
    ) -> CaseImages:
        """The arrays of a case, with the masks of these evaluations under their names."""
        known, files = self.centers[center], self.files[center]
        if case_id not in files:
            raise ValueError(
                f"{known.path}: has no image of {case_id}, which is evaluated; restore it, or give "
                "--no-images for a page of numbers"
            )
        case = load_case(known, files[case_id])
        masks = tuple(
            Layer(
                name,
                STAGES[item.origin["stage"]].target,
                read_mask(item.mask_path(case_id), case.grid),
            )
            for name, item in layers
        )
        return CaseImages(case.image_hu, case.spacing, case.label, masks)


def choose_layers(
    case_id: str, evaluations: Sequence[Evaluated], names: Mapping[Group, str]
) -> list[tuple[str, Evaluated]]:
    """The results whose masks a case shows, at most `MAX_LAYERS`, in the order of the stages.

    `evaluations`: of the case's center, as the page orders them. The first that has the case and
    those before it are always among them.
    """
    there = [item for item in evaluations if item.mask_path(case_id).is_file()]
    if not there:
        return []
    first = [item.folder for item in chain_of(there[0])]
    ranked = sorted(there, key=lambda item: item.folder not in first)[:MAX_LAYERS]
    # Behind all others of its stage comes what is shown first.
    ranked.sort(key=lambda item: (STAGE_NAMES.index(item.origin["stage"]), item.folder in first))
    return [(names[item.group], item) for item in ranked]
