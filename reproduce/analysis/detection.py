"""How well tumors are found, patient by patient and lesion by lesion, from `Rows`.

The score of a patient is the highest probability in the pancreas region of interest; a lesion is
hit where a finding overlaps it by an intersection over union of 10 % or more
(`engine/case_metrics.measure_findings`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.case_metrics import Row, read_list
from reproduce.analysis.stats import (
    LEVEL,
    RESAMPLES,
    SEED,
    Interval,
    bootstrap_mean,
    draw_shares,
    mean_over_centers,
)
from utils.lesions import MIN_HIT_IOU

SMALL_MM, LARGE_MM = 20.0, 40.0  # strata: below 2 cm, 2 to 4, above 4
BINS = 10  # of the calibration error


@dataclass(frozen=True)
class Lesion:
    """One lesion of a label: longest axis (mm), and for each seed the finding that hits it.

    `probs`: that finding's highest probability, 0 where the lesion is missed.
    """

    longest_mm: float
    hits: np.ndarray  # (seeds,) bool
    probs: np.ndarray  # (seeds,)


@dataclass(frozen=True)
class Patients:
    """What detection is measured of: the patients of one row on one center.

    `scores`, `found`: (seeds, patients); found: whether the result holds anything. `has_lesion`:
    (patients,). `lesions`: of each patient. `false_probs`: for each seed, of all findings that hit
    no lesion their highest probability.
    """

    scores: np.ndarray
    found: np.ndarray
    has_lesion: np.ndarray
    lesions: tuple[tuple[Lesion, ...], ...]
    false_probs: tuple[np.ndarray, ...]

    @property
    def every_lesion(self) -> list[Lesion]:
        """Those of all patients."""
        return [lesion for of_patient in self.lesions for lesion in of_patient]


@dataclass(frozen=True)
class Value:
    """One number with its 95 % bootstrap interval over patients (None: too few), and of how many.

    `value` None: it cannot be measured of these patients.
    """

    value: float | None
    count: int
    interval: Interval | None = None


def measure_patients(rows_of_seeds: Sequence[Sequence[Row]]) -> Patients | None:
    """The labeled cases of each seed -> what was found; None where that was not measured.

    Results of before there were these columns are such. Raises ValueError where the seeds' cases
    differ.
    """
    labeled = [
        {r["case_id"]: r for r in rows if "dsc" in r or "label_ml" in r} for rows in rows_of_seeds
    ]
    ids = sorted(labeled[0])
    if any(sorted(of_seed) != ids for of_seed in labeled):
        raise ValueError("the seeds were evaluated on different cases")
    table = [[of_seed[name] for name in ids] for of_seed in labeled]
    if not ids or any("roi_max_prob" not in row for rows in table for row in rows):
        return None
    return Patients(
        scores=np.array([[row["roi_max_prob"] for row in rows] for rows in table]),
        found=np.array([["pred" not in _empty(row) for row in rows] for rows in table]),
        has_lesion=np.array(["label" not in _empty(row) for row in table[0]]),
        lesions=tuple(_read_lesions(of_case) for of_case in zip(*table, strict=True)),
        false_probs=tuple(
            np.array([prob for row in rows for prob in read_list(row, "false_prob")])
            for rows in table
        ),
    )


def sensitivity(centers: Sequence[Patients]) -> Value:
    """Patients with a lesion in whom anything was found; mean over centers, as all that follow."""
    return _share([p.found[:, p.has_lesion] for p in centers])


def specificity(centers: Sequence[Patients]) -> Value:
    """Patients without a lesion in whom nothing was found."""
    return _share([~p.found[:, ~p.has_lesion] for p in centers])


def lesion_sensitivity(
    centers: Sequence[Patients], least_mm: float = 0.0, below_mm: float = np.inf
) -> Value:
    """Lesions that were hit, of those with a longest axis from `least_mm` to below `below_mm`.

    Of a size that one of the centers lacks, the mean is over the others.
    """
    chosen = [
        [lesion.hits for lesion in p.every_lesion if least_mm <= lesion.longest_mm < below_mm]
        for p in centers
    ]
    return _share([np.stack(hits, axis=1) for hits in chosen if hits])


def auroc(centers: Sequence[Patients]) -> Value:
    """Area under the ROC curve of the scores: how often a patient with a lesion has the higher one.

    A tie counts half.
    """
    count = sum(len(p.has_lesion) for p in centers)
    wins = []
    for p in centers:
        with_, without = p.scores[:, p.has_lesion], p.scores[:, ~p.has_lesion]
        if not with_.size or not without.size:
            return Value(None, count)
        higher = (with_[:, :, None] > without[:, None]) + 0.5 * (
            with_[:, :, None] == without[:, None]
        )
        wins.append(higher.mean(axis=0))
    return Value(mean_over_centers(wins), count, _bootstrap_pairs(wins))


def average_precision(centers: Sequence[Patients]) -> Value:
    """Average precision of the scores, patient by patient; needs patients of both kinds."""
    # Here: sklearn takes a second to import, which --help would pay.
    from sklearn.metrics import average_precision_score

    def of_seed(p: Patients, seed: int) -> float:
        return float(average_precision_score(p.has_lesion, p.scores[seed]))

    return _mean_of_seeds(centers, of_seed)


def lesion_average_precision(centers: Sequence[Patients]) -> Value:
    """Average precision of the findings, lesion by lesion, as PI-CAI and PANORAMA have it.

    A missed lesion is never found, whatever the threshold.
    """
    # Here: sklearn takes a second to import, which --help would pay.
    from sklearn.metrics import precision_recall_curve

    def of_seed(p: Patients, seed: int) -> float:
        lesions = np.array([lesion.probs[seed] for lesion in p.every_lesion])
        false = p.false_probs[seed]
        is_lesion = np.repeat([1, 0], [len(lesions), len(false)])
        found = precision_recall_curve(is_lesion, np.concatenate([lesions, false]))
        precision, recall, thresholds = found
        precision[:-1][thresholds == 0] = 0
        return float(-np.sum(np.diff(recall) * precision[:-1]))

    return _mean_of_seeds(centers, of_seed, both=False)


def calibration_error(centers: Sequence[Patients]) -> Value:
    """Expected calibration error of the score as the probability of a lesion, ten equal bins."""

    def of_seed(p: Patients, seed: int) -> float:
        scores = p.scores[seed]
        bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], scores)
        sizes = np.bincount(bins, minlength=BINS)
        gaps = np.bincount(bins, p.has_lesion, BINS) - np.bincount(bins, scores, BINS)
        return float(np.abs(gaps).sum() / sizes.sum())

    return _mean_of_seeds(centers, of_seed)


# Metric of the CSV -> heading, and how it is measured.
METRICS: Mapping[str, tuple[str, Callable[[Sequence[Patients]], Value]]] = {
    "sensitivity": ("sensitivity, patients", sensitivity),
    "specificity": ("specificity, lesion-free", specificity),
    "auroc": ("AUROC", auroc),
    "average_precision": ("average precision, patients", average_precision),
    "lesion_sensitivity": ("sensitivity, lesions", lesion_sensitivity),
    "lesion_sensitivity_small": (
        "below 2 cm",
        lambda centers: lesion_sensitivity(centers, below_mm=SMALL_MM),
    ),
    "lesion_sensitivity_medium": (
        "2 to 4 cm",
        lambda centers: lesion_sensitivity(centers, SMALL_MM, np.nextafter(LARGE_MM, np.inf)),
    ),
    "lesion_sensitivity_large": (
        "above 4 cm",
        lambda centers: lesion_sensitivity(centers, np.nextafter(LARGE_MM, np.inf)),
    ),
    "lesion_average_precision": ("average precision, lesions", lesion_average_precision),
    "calibration_error": ("calibration error", calibration_error),
}


def _empty(row: Row) -> list[str]:
    return str(row.get("empty", "")).split()


def _read_lesions(of_seeds: Sequence[Row]) -> tuple[Lesion, ...]:
    """The lesions of one case, which every seed's result has in the same order."""
    longest = read_list(of_seeds[0], "lesion_mm")
    shape = (len(of_seeds), len(longest))
    iou = np.reshape([read_list(row, "lesion_iou") for row in of_seeds], shape)
    probs = np.reshape([read_list(row, "lesion_prob") for row in of_seeds], shape)
    return tuple(
        Lesion(mm, iou[:, number] >= MIN_HIT_IOU, probs[:, number])
        for number, mm in enumerate(longest)
    )


def _share(samples: Sequence[np.ndarray]) -> Value:
    """The mean of (seeds, n) for each center; None where a center has none, or there is none."""
    count = sum(sample.shape[1] for sample in samples)
    if not samples or not all(sample.size for sample in samples):
        return Value(None, count)
    means = [sample.mean(axis=0) for sample in samples]
    return Value(mean_over_centers(means), count, bootstrap_mean(means))


def _mean_of_seeds(
    centers: Sequence[Patients], of_seed: Callable[[Patients, int], float], both: bool = True
) -> Value:
    """A number of each seed, mean over seeds, then centers.

    `both`: it needs patients with and without a lesion.
    """
    count = sum(len(p.has_lesion) for p in centers)
    enough = [p.has_lesion.any() and (not both or not p.has_lesion.all()) for p in centers]
    if not centers or not all(enough):
        return Value(None, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of a single class where both is False
        values = [np.array([of_seed(p, seed) for seed in range(len(p.scores))]) for p in centers]
    return Value(mean_over_centers(values), count)


def _bootstrap_pairs(wins: Sequence[np.ndarray]) -> Interval | None:
    """The interval of an AUROC: patients with and without a lesion are drawn, each by themselves.

    `wins`: (with, without) of each center. None where a center has fewer than two of one.
    """
    if min(min(won.shape) for won in wins) < 2:
        return None
    rng = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    for won in wins:
        rows, columns = (draw_shares(rng, n, RESAMPLES) for n in won.shape)
        means += ((rows @ won) * columns).sum(axis=1) / len(wins)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high))
