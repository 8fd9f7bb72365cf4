"""Rows that share the pancreas stages get what the whole cascade gives each of them."""

from __future__ import annotations

import numpy as np
import pytest

from data.centers import load_centers
from data.readers import list_cases, load_case
from engine.cascade import segment
from reproduce.experiments.plan import Plan
from reproduce.experiments.trained import (
    PANCREAS,
    TUMOR,
    find_pancreas,
    find_trained,
    find_tumor,
    load_stages,
    thresholds_of_row,
)
from tests._evaluation_fixtures import NOTHING, TUMOR_CUT, hu_window
from tests._trained_fixtures import train

pytest_plugins = ["tests._evaluation_plugin", "tests._trained_plugin"]


@pytest.mark.parametrize("nothing", [(), PANCREAS[1:], PANCREAS, TUMOR[:1], (*PANCREAS, TUMOR[0])])
def test_it_is_the_whole_cascade_to_the_last_bit(plan: Plan, nothing: tuple[str, ...]) -> None:
    train(plan, "bl", TUMOR_CUT)
    centers = load_centers(plan.centers)
    (item,), missing = find_trained(plan, centers, {"BL": "bl", "SNR": "snr"}, ["C"], [2022])
    assert missing == ["SNR, C, seed 2022"]
    every = load_stages(item, (*PANCREAS, *TUMOR), "cpu")
    for name, predictor in every.items():
        cut = 60.0 if name in PANCREAS else TUMOR_CUT
        network = predictor.method.network
        network.load_state_dict(NOTHING if name in nothing else hu_window(cut))
    case = load_case(centers["C"], list_cases(centers["C"])[0])
    thresholds = {"tumor_coarse": 0.4, "tumor_fine": 0.6}
    whole = segment(case, every, thresholds=thresholds)
    organ = find_pancreas(case, {name: every[name] for name in PANCREAS})
    tumor = {name: every[name] for name in TUMOR}
    found = find_tumor(organ, tumor, thresholds)
    assert list(found) == list(TUMOR)
    for name in TUMOR:
        np.testing.assert_array_equal(found[name].mask, whole[name].mask)
        np.testing.assert_array_equal(found[name].prob, whole[name].prob)
        assert (found[name].roi, found[name].box) == (whole[name].roi, whole[name].box)
        assert found[name].threshold == thresholds[name]
        assert found[name].prepared is organ.prepared  # not made again
    assert (organ.box_on(organ.prepared) is None) == (set(PANCREAS) <= set(nothing))


def test_thresholds_are_those_of_the_evaluations(plan: Plan) -> None:
    train(plan, "bl", TUMOR_CUT)
    centers = load_centers(plan.centers)
    (item,), _ = find_trained(plan, centers, {"BL": "bl"}, ["C"], [2022])
    assert thresholds_of_row(plan, centers, item, "target") == dict.fromkeys(TUMOR, 0.5)
