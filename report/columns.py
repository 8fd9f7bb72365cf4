"""The measures that a page knows: how each is called, rounded and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """`better`: 1 where higher is better, -1 where lower is, 0 where neither is."""

    label: str
    digits: int = 2
    better: int = 0
    explained: str = ""


COLUMNS = {
    "dsc": Column("DSC (%)", 1, 1, "Dice similarity coefficient, label against result"),
    "asd_mm": Column("ASD (mm)", 2, -1, "average surface distance"),
    "hd95_mm": Column("HD (mm)", 1, -1, "Hausdorff distance, 95th percentile"),
    "centroid_mm": Column("centroid (mm)", 1, -1, "distance between the centers of mass"),
    "recall": Column("recall", 2, 1, "part of the label that was found"),
    "precision": Column("precision", 2, 1, "part of the result that is in the label"),
    "label_ml": Column("label (ml)", 1, 0, "volume of the label"),
    "pred_ml": Column("result (ml)", 1, 0, "volume of the result"),
    "volume_ml": Column("volume (ml)", 1, 0, "volume of the result"),
    "longest_axis_mm": Column("longest axis (mm)", 1, 0, "between the farthest two voxels"),
    "mean_hu": Column("mean HU", 0, 0, "of the result's voxels"),
    "highest_probability": Column("highest prob.", 2, 0, "the highest probability of a voxel"),
    "centroid_lps_mm": Column("centroid, LPS (mm)", 1, 0, "to the left, the back and the head"),
    "roi_coverage": Column("in ROI", 2, 1, "part of the label that lies in the region of interest"),
    "empty": Column("empty", explained="which of label and result has no voxel"),
    "fallback": Column("fallback", explained="what gave the region where a stage found nothing"),
    "threshold": Column("threshold", 2, 0, "probability above which a voxel is foreground"),
    "seconds": Column("seconds", 1, -1, "time of this stage"),
}
# Behind those that the page does not know.
LAST = ("empty", "fallback", "threshold", "seconds")
# These say more of the machine and of the crop than of the case.
LEFT_OUT = (
    *("case_id", "center", "target", "hd95_max_mm", "roi_coverage_margin", "rounds", "windows"),
    *("arithmetic", "peak_memory_mib", "threshold_value", "fold"),
)
DISTRIBUTIONS = ("dsc", "asd_mm", "hd95_mm", "centroid_mm")


def column_of(name: str) -> Column:
    """A known measure, or one under its own name."""
    return COLUMNS.get(name, Column(name.replace("_", " ")))


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measures to show of these rows: known ones in the order above, then the others."""
    there = dict.fromkeys(
        key
        for row in rows
        for key, value in row.items()
        if value is not None and value != "" and not isinstance(value, Mapping)
    )
    known = [name for name in COLUMNS if name in there and name not in LAST]
    others = [name for name in there if name not in COLUMNS and name not in LEFT_OUT]
    return known + others + [name for name in LAST if name in there]


def is_comparable(row: Mapping[str, Any]) -> bool:
    """Whether a case can be best or worst: it has a label, and not an empty one."""
    return row.get("dsc") is not None and "label" not in str(row.get("empty", "")).split()


def rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """Sorts from the worst case to the best: by DSC, where that is the same by surface distance."""
    return float(row["dsc"]), -float(row.get("asd_mm", 0.0))
