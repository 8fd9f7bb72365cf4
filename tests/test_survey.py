"""What the check says of one case: lesions, places, and what is worth a warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case import Center, DataError
from data.quality.survey import CaseFacts, survey_case
from data.readers import list_cases
from tests.volumes import ORIGIN_XYZ, SPACING, to_image, write_volume

SHAPE = (10, 12, 14)


def make_scan() -> np.ndarray:
    """Air around soft tissue, int16 HU."""
    image_hu = np.random.default_rng(0).normal(-1000, 5, SHAPE)
    image_hu[1:9, 2:10, 2:12] += 1050
    return np.rint(image_hu).astype(np.int16)


def make_label() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:8, 3:9, 3:11] = 1
    label[2:4, 3:5, 3:6] = 2  # 12 voxels at the right end, below
    label[4, 6, 6] = 2  # touches the first at no corner even: a lesion of its own
    label[7, 8, 10] = 2
    return label


def survey(
    tmp_path: Path,
    image_hu: np.ndarray,
    label: np.ndarray | None,
    orientation: str = "LPS",
    has_lesions: bool = True,
) -> CaseFacts:
    write_volume(tmp_path / "images" / "a.nrrd", to_image(image_hu, orientation=orientation))
    if label is not None:
        write_volume(tmp_path / "labels" / "a.nrrd", to_image(label, orientation=orientation))
    center = Center("C", "folder", tmp_path, has_lesions=has_lesions)
    facts = survey_case(center, list_cases(center)[0])
    assert isinstance(facts, CaseFacts)
    return facts


@pytest.mark.parametrize("orientation", ["LPS", "RAI", "SPL"])
def test_lesions_are_counted_measured_and_placed_in_every_orientation(
    tmp_path: Path, orientation: str
) -> None:
    facts = survey(tmp_path, make_scan(), make_label(), orientation)
    voxel_mm3 = 2.9 * 1.3 * 0.7
    volumes = [lesion.volume_mm3 for lesion in facts.lesions]
    assert volumes == pytest.approx([12 * voxel_mm3, voxel_mm3, voxel_mm3])
    largest, *others = facts.lesions
    middle_zyx = (2.5, 3.5, 4.0)
    expected = [
        o + i * s for o, i, s in zip(ORIGIN_XYZ, middle_zyx[::-1], SPACING[::-1], strict=True)
    ]
    assert largest.centroid_mm == pytest.approx(expected, abs=1e-4)
    assert largest.place == pytest.approx((1 / 6, 1 / 6, 1.5 / 8))
    assert largest.part == "head"
    assert {lesion.part for lesion in others} == {"body", "tail"}
    assert facts.pancreas_ml == pytest.approx(6 * 6 * 8 * voxel_mm3 / 1000)
    assert facts.warnings == (
        f"pancreas with lesion has {facts.pancreas_ml:.1f} ml; look at the label",
        f"lesion 2 of 3 has 1 voxels ({voxel_mm3:.2f} mm3): a stray mark?",
        f"lesion 3 of 3 has 1 voxels ({voxel_mm3:.2f} mm3): a stray mark?",
    )


def test_a_label_that_lies_on_air_gives_a_warning(tmp_path: Path) -> None:
    mirrored = np.zeros(SHAPE, np.uint8)
    mirrored[:, :3, :] = 1
    facts = survey(tmp_path, make_scan(), mirrored, has_lesions=False)
    assert any("% of its label lie on soft tissue" in warning for warning in facts.warnings)


def test_a_case_without_tumor_gives_a_warning_only_where_lesions_are_expected(
    tmp_path: Path,
) -> None:
    label = (make_label() > 0).astype(np.uint8)
    sick = survey(tmp_path, make_scan(), label)
    healthy = survey(tmp_path, make_scan(), label, has_lesions=False)
    assert any("no tumor in its label" in warning for warning in sick.warnings)
    assert not any("no tumor" in warning for warning in healthy.warnings)


def test_a_case_without_label_has_no_lesions(tmp_path: Path) -> None:
    facts = survey(tmp_path, make_scan(), None)
    assert not facts.labeled
    assert facts.lesions == ()


def test_a_refused_case_comes_back_as_its_error(tmp_path: Path) -> None:
    write_volume(tmp_path / "images" / "a.nrrd", np.zeros(SHAPE, np.int16))
    center = Center("C", "folder", tmp_path)
    found = survey_case(center, list_cases(center)[0])
    assert isinstance(found, DataError)
    assert str(found).startswith("C/a: ")
