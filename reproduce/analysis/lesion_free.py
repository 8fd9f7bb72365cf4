"""What each training finds in lesion-free scans, as data: `results/<experiment>/lesion_free/`.

Scans beyond an experiment's own cases, for detection alone: no table of Dice reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.case_metrics import Row
from reproduce.analysis.line_files import LineFiles
from reproduce.analysis.rows import ResultKey, Rows
from reproduce.analysis.tables import Keys, Place

MEASURED_STAGE = "tumor_fine"


@dataclass(frozen=True)
class LesionFreeScan:
    """What the fine tumor stage found in one scan without a lesion.

    `threshold`: how it was chosen, `threshold_value`: what it was. Further columns are those of
    cases.csv; `weights`: digest of the four checkpoints.
    """

    method: str
    row: str
    target: str
    seed: int
    threshold: str
    case_id: str
    threshold_value: float
    roi_max_prob: float
    pred_ml: float
    false_prob: str
    fallback: str
    weights: str

    @property
    def key(self) -> ResultKey:
        """The evaluation whose network it was."""
        return ResultKey(
            MEASURED_STAGE, self.target, self.method, self.seed, threshold=self.threshold
        )

    @property
    def case(self) -> Row:
        """As a case of `Rows`: its label is empty."""
        return {
            "case_id": self.case_id,
            "center": self.target,
            "threshold_value": self.threshold_value,
            "roi_max_prob": self.roi_max_prob,
            "pred_ml": self.pred_ml,
            "label_ml": 0.0,
            "empty": "label" if self.pred_ml > 0 else "pred label",
            "false_prob": self.false_prob,
        }


LESION_FREE = LineFiles(
    folder="lesion_free",
    kind=LesionFreeScan,
    values=("row", "threshold_value", "roi_max_prob", "pred_ml", "false_prob", "fallback",
            "weights"),
    script="reproduce/detection.py --experiment FOLDER --lesion-free --results",
)  # fmt: skip


@dataclass(frozen=True)
class LesionFree:
    """Lesion-free scans by evaluation, and what of them cannot be used, in words."""

    scans: Mapping[ResultKey, Sequence[Row]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def cases(self, rows: Rows, of_seeds: Sequence[ResultKey]) -> list[Sequence[Row]] | None:
        """The cases of a place, each seed's, with the lesion-free scans that all its seeds have.

        None where an evaluation is missing.
        """
        own = [rows.select(key) for key in of_seeds]
        if any(part is None for part in own):
            return None
        more = [{row["case_id"]: row for row in self.scans.get(key, ())} for key in of_seeds]
        shared = sorted(set.intersection(*(set(names) for names in more))) if more else []
        return [
            [*(part or ()), *(names[name] for name in shared)]
            for part, names in zip(own, more, strict=True)
        ]


NO_SCANS = LesionFree()


def read_lesion_free(folder: Path, rows: Rows, keys: Keys) -> LesionFree:
    """The lesion-free scans of `results/<experiment>` for a table; none where there are none.

    Those of an evaluation with another threshold than its own cases have are left out, and named.
    """
    if not any((folder / LESION_FREE.folder).glob("*.csv")):
        return NO_SCANS
    found: dict[ResultKey, list[Row]] = {}
    for scan in LESION_FREE.read_all(folder):
        found.setdefault(scan.key, []).append(scan.case)
    place_of = {key: place for place, of_seeds in keys.items() for key in of_seeds}
    notes = []
    for key in [key for key in found if key in place_of]:
        own = rows.select(key) or ()
        there = {row["threshold_value"] for row in own if "threshold_value" in row}
        used = {row["threshold_value"] for row in found[key]}
        if there and used != there:
            del found[key]
            notes.append(_of_other_threshold(place_of[key], key, used, there))
    return LesionFree(found, tuple(notes))


def _of_other_threshold(place: Place, key: ResultKey, used: set[float], there: set[float]) -> str:
    threshold, row, center = place
    before, now = (" ".join(f"{value:g}" for value in sorted(part)) for part in (used, there))
    return (
        f"{row}, {center}, threshold {threshold}, seed {key.seed}: its lesion-free scans were "
        f"predicted with a threshold of {before}, its cases with {now}; they are left out, "
        "predict them again"
    )
