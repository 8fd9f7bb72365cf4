"""What one case is: geometry, label, lesions, scanner, and what is worth a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import LABEL_TUMOR, Case, Center, DataError, Triple
from data.prepare.one_case import case_error
from data.prepare.signature import Signature, sign_image
from data.quality.case_picture import draw_case
from data.quality.label_check import judge_case
from data.readers import load_case
from data.readers.files import CaseFiles
from data.readers.volume import canonical_matrix
from data.roi import bounding_box

TINY_LESION_MM3 = 10.0


@dataclass(frozen=True)
class Lesion:
    """One 26-connected part of the tumor label.

    `centroid_mm`: (x, y, z), world, LPS. `place`: (z, y, x) in the pancreas's box, 0 to 1; x runs
    from the patient's right (head of the pancreas) to the left (tail), z from the feet upward.
    """

    volume_mm3: float
    centroid_mm: Triple
    place: Triple

    @property
    def part(self) -> str:
        """Third of the pancreas from right to left: only a rough guess, since it curves."""
        return ("head", "body", "tail")[min(2, int(3 * self.place[2]))]


@dataclass(frozen=True)
class CaseFacts:
    """A readable case in figures. `spacing` mm, (z, y, x), canonical; volumes in ml and mm3."""

    center: str
    case_id: str
    patient_id: str
    shape: tuple[int, ...]
    spacing: Triple
    labeled: bool
    pancreas_ml: float
    lesions: tuple[Lesion, ...]
    acquisition: Mapping[str, str]
    warnings: tuple[str, ...]
    signature: Signature


def survey_case(
    center: Center, files: CaseFiles, picture: Path | None = None
) -> CaseFacts | DataError:
    """Read one case and describe it, or say why it is refused.

    `picture`: where to draw it if it has a warning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes are among the facts' warnings
        try:
            case = load_case(center, files)
            facts = _describe(center, files, case)
            if picture is not None and facts.warnings:
                draw_case(case, facts.warnings, picture)
        except Exception as error:  # of any library that reads it: the case's own problem
            return case_error(f"{center.name}/{files.case_id}", error)
    return facts


def _describe(center: Center, files: CaseFiles, case: Case) -> CaseFacts:
    voxel_mm3 = float(np.prod(case.spacing))
    pancreas_ml = 0.0
    if case.label is not None:
        pancreas_ml = np.count_nonzero(case.label) * voxel_mm3 / 1000
    lesions = find_lesions(case)
    return CaseFacts(
        center=center.name,
        case_id=case.case_id,
        patient_id=files.patient_id,
        shape=case.image_hu.shape,
        spacing=case.spacing,
        labeled=case.label is not None,
        pancreas_ml=pancreas_ml,
        lesions=lesions,
        acquisition=case.acquisition,
        warnings=(*case.notes, *_warnings(case, center)),
        signature=sign_image(center.name, case.case_id, case.image_hu, case.spacing),
    )


def find_lesions(case: Case) -> tuple[Lesion, ...]:
    """Every 26-connected part of the tumor label, largest first."""
    from scipy import ndimage

    if case.label is None:
        return ()
    tumor = bounding_box(case.label == LABEL_TUMOR)
    pancreas = bounding_box(case.label > 0)
    if tumor is None or pancreas is None:
        return ()
    parts, count = ndimage.label(case.label[tumor.slices] == LABEL_TUMOR, np.ones((3, 3, 3)))
    numbers = range(1, count + 1)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    middles = ndimage.center_of_mass(parts > 0, parts, numbers)
    matrix = canonical_matrix(case.grid)
    lesions = []
    for size, middle in zip(sizes, middles, strict=True):
        index = np.add(middle, tumor.start)
        world = matrix @ (*index[::-1], 1.0)
        place = (index + 0.5 - pancreas.start) / np.subtract(pancreas.stop, pancreas.start)
        lesions.append(
            Lesion(float(size * np.prod(case.spacing)), _triple(world[:3]), _triple(place))
        )
    return tuple(sorted(lesions, key=lambda lesion: -lesion.volume_mm3))


def _warnings(case: Case, center: Center) -> tuple[str, ...]:
    found = judge_case(case)
    if case.label is None or not center.has_lesions or (case.label == LABEL_TUMOR).any():
        return found
    return ("no tumor in its label: it trains the pancreas stages only", *found)


def _triple(values: np.ndarray) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])
