"""The cascade on a case in memory: what the evaluation writes, without a folder in sight."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import engine.cascade
from data.case import Case, Grid
from data.centers import load_centers
from data.dataset import target_mask
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from data.readers import list_cases, load_case, load_image, load_label, read_mask
from data.roi import Box
from engine.cascade import Roi, choose_roi, segment
from engine.inference import Predictor, load_predictor
from tests._evaluation_fixtures import (
    CASES,
    PANCREAS_CUT,
    PREPARED_SPACING,
    SPACING,
    TUMOR_CUT,
    Place,
    make_volumes,
    read_rows,
    run_of,
    small_stage,
)
from tests._inference_models import make_predictor
from tests.conftest import ROOT
from utils.metrics import dsc
from utils.postprocess import keep_components
from utils.stages import STAGE_NAMES, STAGES

pytest_plugins = ["tests._evaluation_plugin"]

CUTS = {"pancreas": PANCREAS_CUT, "tumor": TUMOR_CUT}

# A whole prediction script: read, segment, write.
PREDICT = '''
"""A CT -> the masks of the four stages."""
import argparse
import sys
from pathlib import Path

from data.readers import load_image, read_mask, write_mask
from engine.cascade import segment
from engine.inference import load_predictor


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("image", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pancreas", type=Path, help="mask that stands for the pancreas stages")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    case = load_image(args.image, args.image.name.partition(".")[0])
    loaded = [load_predictor(path, args.device) for path in args.checkpoints]
    predictors = {predictor.stage.name: predictor for predictor in loaded}
    roi = None if args.pancreas is None else read_mask(args.pancreas, case.grid)
    for stage, found in segment(case, predictors, roi=roi).items():
        write_mask(args.out / f"{case.case_id}_{stage}.nii.gz", found.mask, case.grid)
        voxels = int(found.mask.sum())
        print(stage, voxels, found.roi.fallback or "-", found.windows, found.precision)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
'''


@pytest.fixture
def checkpoints(data: Place, finished: dict[str, Path], place: Place) -> dict[str, Path]:
    """The weights behind `finished`, by stage; `place` lets them be loaded."""
    return {stage: run_of(data, stage).checkpoint for stage in STAGE_NAMES}


@pytest.fixture
def case() -> Case:
    """A case in memory that is in no center."""
    image_hu, label = make_volumes(seed=2)
    z, y, x = image_hu.shape
    grid = Grid((x, y, z), SPACING[::-1], (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    return Case("new", "", image_hu, label, SPACING, grid)


def brighter_than(cut: float) -> Callable[[Tensor], Tensor]:
    """Probability 0.95 where HU are above `cut`, 0.02 elsewhere."""
    return lambda image: torch.where(340 * image - 100 > cut, 0.95, 0.02)


def make_predictors(
    *nothing: str, spacings: Mapping[str, tuple[float, float, float]] | None = None
) -> dict[str, Predictor]:
    """All four stages find their target, those named in `nothing` find nothing."""
    spacings = {} if spacings is None else spacings
    return {
        name: make_predictor(
            brighter_than(3000 if name in nothing else CUTS[stage.target]),
            small_stage(name),
            spacing=spacings.get(name, PREPARED_SPACING),
        )[0]
        for name, stage in STAGES.items()
    }


def test_the_cascade_gives_the_masks_that_the_evaluation_writes(
    data: Place, finished: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    predictors = {s: load_predictor(path, "cpu", stage=s) for s, path in checkpoints.items()}
    center = load_centers(data.centers)["C"]
    for files in list_cases(center):
        image = load_image(files.image, files.case_id)
        found = segment(image, predictors)
        assert tuple(found) == STAGE_NAMES
        for stage, prediction in found.items():
            written = read_mask(
                finished[stage] / "predictions" / f"{files.case_id}.nii.gz", image.grid
            )
            np.testing.assert_array_equal(prediction.mask, written)
            row = read_rows(finished[stage])[files.case_id]
            assert float(row["rounds"]) == prediction.rounds
            assert row["fallback"] == prediction.roi.fallback
            assert (prediction.precision, prediction.windows) == ("fp32", 0)


def test_a_label_of_the_case_is_not_looked_at(case: Case) -> None:
    predictors = make_predictors()
    with_label = segment(case, predictors)
    without = segment(replace(case, label=None), predictors)
    for stage, prediction in with_label.items():
        np.testing.assert_array_equal(prediction.mask, without[stage].mask)
        assert case.label is not None
        assert dsc(prediction.mask, target_mask(case.label, prediction.target)) > 80
        assert not prediction.prepared.has_label


def test_the_mask_is_the_probability_above_the_threshold_on_the_cases_own_grid(case: Case) -> None:
    for stage, prediction in segment(case, make_predictors()).items():
        prob = prediction.prob
        assert prob.shape == prediction.mask.shape == case.image_hu.shape
        assert prob.dtype == np.float32
        assert prediction.threshold == STAGES[stage].threshold
        np.testing.assert_array_equal(prediction.mask, keep_components(prob > prediction.threshold))
        assert prediction.seconds > 0


def test_a_threshold_that_is_given_counts_for_its_stage_alone(case: Case) -> None:
    found = segment(case, make_predictors(), thresholds={"tumor_coarse": 0.97})
    assert not found["tumor_coarse"].mask.any()
    assert found["pancreas_fine"].mask.any()
    assert found["tumor_fine"].mask.any()
    assert found["tumor_fine"].roi.fallback == "pancreas_fine"


@pytest.mark.parametrize(
    ("nothing", "fallbacks"),
    [
        ((), ("", "", "", "")),
        (("tumor_coarse",), ("", "", "", "pancreas_fine")),
        (("pancreas_fine", "tumor_coarse"), ("", "", "pancreas_coarse", "pancreas_coarse")),
        (("pancreas_coarse",), ("", "whole volume", "", "")),
        (
            ("pancreas_coarse", "pancreas_fine", "tumor_coarse"),
            ("", "whole volume", "whole volume", "whole volume"),
        ),
    ],
)
def test_a_stage_that_finds_nothing_is_stood_in_for_by_the_one_before(
    nothing: tuple[str, ...], fallbacks: tuple[str, ...], case: Case
) -> None:
    found = segment(case, make_predictors(*nothing))
    assert tuple(prediction.roi.fallback for prediction in found.values()) == fallbacks
    for stage, prediction in found.items():
        assert prediction.mask.any() == (stage not in nothing)
        if prediction.roi.fallback == "whole volume":
            assert prediction.roi.box is None


def test_a_given_pancreas_stands_for_the_pancreas_stages(case: Case) -> None:
    assert case.label is not None
    pancreas = case.label > 0
    found = segment(case, make_predictors(), roi=pancreas)
    assert tuple(found) == ("tumor_coarse", "tumor_fine")
    inside = np.argwhere(pancreas) * SPACING / np.array(PREPARED_SPACING)
    box = found["tumor_coarse"].roi.box
    assert box is not None
    np.testing.assert_allclose(box.start, inside.min(axis=0), atol=1.5)
    np.testing.assert_allclose(box.stop, inside.max(axis=0) + 1, atol=1.5)
    assert [p.roi.fallback for p in found.values()] == ["", ""]
    lost = segment(case, make_predictors("tumor_coarse"), roi=pancreas)
    assert lost["tumor_fine"].roi == Roi(box, "given pancreas")
    tumor_only = {s: p for s, p in make_predictors().items() if s.startswith("tumor")}
    again = segment(case, tumor_only, roi=pancreas)
    np.testing.assert_array_equal(again["tumor_fine"].mask, found["tumor_fine"].mask)


def test_a_given_pancreas_that_is_empty_or_of_another_shape_is_refused(case: Case) -> None:
    predictors = make_predictors()
    with pytest.raises(ValueError, match=r"new: the given pancreas has 0 voxels"):
        segment(case, predictors, roi=np.zeros(case.image_hu.shape, bool))
    with pytest.raises(ValueError, match=r"in \(3, 4, 5\), the image is .*the image's grid"):
        segment(case, predictors, roi=np.ones((3, 4, 5), bool))


def test_stages_that_do_not_fit_together_are_refused(case: Case) -> None:
    predictors = make_predictors()
    with pytest.raises(ValueError, match="unknown stage fine; choose from pancreas_coarse, "):
        segment(case, {"fine": predictors["tumor_fine"]})
    with pytest.raises(ValueError, match="unknown stage fine"):
        segment(case, predictors, thresholds={"fine": 0.5})
    with pytest.raises(ValueError, match="given for tumor_fine was trained as tumor_coarse"):
        segment(case, {**predictors, "tumor_fine": predictors["tumor_coarse"]})
    for stage in STAGE_NAMES[1:]:
        with pytest.raises(ValueError, match=f"{stage} crops around what .* give its predictor"):
            segment(case, {stage: predictors[stage]})
    with pytest.raises(ValueError, match="no stage to run"):
        segment(case, {}, roi=case.image_hu > 0)
    first = segment(case, {"pancreas_coarse": predictors["pancreas_coarse"]})
    assert tuple(first) == ("pancreas_coarse",)


def test_a_case_is_prepared_once_for_each_spacing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    spacings = []
    prepare_case = engine.cascade.prepare_case

    def noted(case: Case, settings: PrepareSettings) -> PreparedCase:
        spacings.append(settings.spacing)
        return prepare_case(case, settings)

    monkeypatch.setattr(engine.cascade, "prepare_case", noted)
    segment(case, make_predictors())
    assert spacings == [PREPARED_SPACING]
    spacings.clear()
    finer = (2.5, 2.0, 2.0)
    found = segment(case, make_predictors(spacings={"tumor_coarse": finer}))
    assert spacings == [PREPARED_SPACING, finer]
    assert found["tumor_coarse"].prepared.spacing == finer
    assert found["tumor_fine"].prepared.spacing == PREPARED_SPACING
    assert all(prediction.mask.any() for prediction in found.values())


def test_the_nearest_mask_that_holds_anything_is_the_roi() -> None:
    box, other = Box((0, 0, 0), (1, 1, 1)), Box((1, 1, 1), (2, 2, 2))
    stage = STAGES["tumor_fine"]
    assert choose_roi(stage, [("a", box), ("b", other)]) == Roi(box)
    assert choose_roi(stage, [("a", None), ("b", other)]) == Roi(other, "b")
    assert choose_roi(stage, [("a", None)]) == choose_roi(stage, []) == Roi(None, "whole volume")
    assert choose_roi(STAGES["pancreas_coarse"], [("a", box)]) == Roi(None)


def test_a_predict_script_of_sixty_lines_writes_what_the_evaluation_wrote(
    data: Place,
    finished: dict[str, Path],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = tmp_path / "predict_one.py"
    script.write_text(PREDICT)
    assert len(PREDICT.splitlines()) <= 60
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    image = data.centers.parent / "C" / "images" / f"{CASES[1]}.nii.gz"
    words = [str(image), *map(str, checkpoints.values()), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["predict_one.py", *words, "--out", "masks"])
    runpy.run_path(str(script), run_name="__main__")
    grid = load_image(image, "x").grid
    for stage in STAGE_NAMES:
        mask = read_mask(tmp_path / "masks" / f"{CASES[1]}_{stage}.nii.gz", grid)
        written = read_mask(finished[stage] / "predictions" / f"{CASES[1]}.nii.gz", grid)
        np.testing.assert_array_equal(mask, written)
    pancreas = finished["pancreas_fine"] / "predictions" / f"{CASES[1]}.nii.gz"
    words = [str(image), *words[3:], "--pancreas", str(pancreas)]  # the tumor stages alone
    monkeypatch.setattr(sys, "argv", ["predict_one.py", *words, "--out", "given"])
    runpy.run_path(str(script), run_name="__main__")
    for stage in STAGE_NAMES[2:]:
        first, second = (
            read_mask(tmp_path / folder / f"{CASES[1]}_{stage}.nii.gz", grid)
            for folder in ("masks", "given")
        )
        np.testing.assert_array_equal(first, second)


def test_the_label_alone_is_read_as_with_its_image(data: Place) -> None:
    """In every orientation, and where there is none."""
    for name in ("C", "N", "U"):
        center = load_centers(data.centers)[name]
        for files in list_cases(center):
            case = load_case(center, files)
            label = load_label(center, files, case.grid)
            assert (label is None) == (case.label is None)
            if label is not None and case.label is not None:
                np.testing.assert_array_equal(label, case.label)
