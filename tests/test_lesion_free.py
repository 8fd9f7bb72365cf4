"""Lesion-free cases of a synthetic center: how many, and that the others do not change."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.phantom.centers import CENTERS, with_lesion_free
from data.phantom.generate import make_phantom, plan_case
from data.phantom.make_centers import make_centers
from reproduce.experiments.inputs import Drawing
from reproduce.experiments.presets import PRESETS, Phantoms
from reproduce.experiments.request import parse_request

SEED = 7


def test_the_share_of_cases_without_a_lesion_is_the_one_asked_for() -> None:
    center = with_lesion_free(CENTERS["SYN-C"], 0.3)
    plans = [plan_case("SYN-C", index, "demo", SEED, center) for index in range(300)]
    free = sum(plan.lesion is None for plan in plans)
    assert free == pytest.approx(90, abs=25)  # 3 standard deviations
    assert all(plan.facts["lesion"] == "none" for plan in plans if plan.lesion is None)


def test_a_case_that_keeps_its_lesion_is_the_same_to_the_last_bit() -> None:
    center = with_lesion_free(CENTERS["SYN-C"], 0.5)
    plans = [plan_case("SYN-C", index, "demo", SEED, center) for index in range(8)]
    kept = next(index for index, plan in enumerate(plans) if plan.lesion is not None)
    free = next(index for index, plan in enumerate(plans) if plan.lesion is None)
    before, after = (make_phantom("SYN-C", kept, "demo", SEED, c) for c in (None, center))
    assert before.image_hu.tobytes() == after.image_hu.tobytes()
    assert before.label.tobytes() == after.label.tobytes()
    without = make_phantom("SYN-C", free, "demo", SEED, center)
    assert np.unique(without.label).tolist() == [0, 1]
    assert without.spacing == make_phantom("SYN-C", free, "demo", SEED).spacing


def test_a_center_without_lesions_has_none_to_leave_out_and_a_share_is_below_one() -> None:
    assert with_lesion_free(CENTERS["SYN-N"], 0.5) is CENTERS["SYN-N"]
    with pytest.raises(ValueError, match="0 or more, below 1"):
        with_lesion_free(CENTERS["SYN-C"], 1.0)


def test_they_are_written_and_a_folder_of_another_share_is_refused(tmp_path: Path) -> None:
    make_centers(tmp_path, ["SYN-C"], 3, "demo", SEED, lesion_free=0.9)
    with (tmp_path / "cases.csv").open() as file:
        kinds = [row["lesion"] for row in csv.DictReader(file)]
    center = with_lesion_free(CENTERS["SYN-C"], 0.9)
    plans = [plan_case("SYN-C", index, "demo", SEED, center) for index in range(3)]
    assert kinds == [plan.facts["lesion"] for plan in plans]
    assert "none" in kinds
    which = Phantoms(cases=3, size="demo", seed=SEED, centers=("SYN-C",), lesion_free=0.9)
    assert which.drawn(tmp_path)
    assert not replace(which, lesion_free=0.0).drawn(tmp_path)
    with pytest.raises(ValueError, match="choose another folder"):
        make_centers(tmp_path, ["SYN-C"], 3, "demo", SEED)


def test_an_experiment_says_its_share_and_one_without_reads_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the default experiment is in the current folder
    plain = PRESETS["small"].phantoms
    assert plain is not None
    assert "lesion_free" not in str(plain) + Drawing(Path("x"), plain).command
    asked = parse_request(None, ["--what", "benchmark", "--lesion-free", "0.25"]).phantoms
    assert asked == replace(plain, lesion_free=0.25)
    assert str(asked).endswith("lesion_free=0.25)")
    assert "--lesion-free 0.25" in Drawing(Path("x"), replace(plain, lesion_free=0.25)).command
    with pytest.raises(SystemExit):
        parse_request(None, ["--what", "table5", "--lesion-free", "0.25"])
