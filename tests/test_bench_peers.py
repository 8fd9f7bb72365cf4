"""The benchmarks beside other libraries: what they compare is equal, what is missing is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.morphology import dilation

from benchmarks import bench_metrics, bench_prepare, bench_sample


def test_metrics_are_compared_with_medpys_and_a_missing_peer_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_metrics, "_is_installed", lambda name: name == "medpy")
    found = bench_metrics.measure((10, 30, 30), ["small lesion"], rounds=1)
    assert set(found["not_run"]) == {"monai", "surface_distance"}
    for cut in ("volume", "crop"):
        values = found["small lesion"][cut]
        assert values["medpy_difference"] < 1e-9
        assert {"ours_s", "medpy_s", "medpy_ratio", "ours_separate_ratio"} <= set(values)
        assert "monai_s" not in values


def test_a_metric_that_is_not_medpys_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_metrics.OURS, "ours", lambda pred, mask: lambda: (80.0, 1.0, 2.0))
    with pytest.raises(ValueError, match="is not medpy's"):
        bench_metrics.measure((10, 30, 30), ["small lesion"], rounds=1, peers=["medpy"])


def test_a_crop_of_both_masks_has_one_voxel_around_them() -> None:
    pred, mask = bench_metrics.make_pair("small lesion", (12, 40, 40))
    for whole, cut in zip((pred, mask), bench_metrics._cut_out(pred, mask), strict=True):
        assert np.count_nonzero(whole) == np.count_nonzero(cut) > 0
        assert not cut[0].any()
        assert not cut[:, :, -1].any()


@pytest.mark.parametrize("sides", [(12, 15, 15), (3, 4, 1)])
def test_the_dilation_axis_by_axis_is_the_one_by_the_whole_box(
    sides: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_sample, "DILATION", sides)
    mask = np.random.default_rng(0).random((20, 24, 28)) < 0.002
    mask[0, 0, 0] = mask[-1, -1, -1] = True
    expected = dilation(mask, np.ones(sides, bool))
    np.testing.assert_array_equal(bench_sample.dilate_separable(mask), expected)
    np.testing.assert_array_equal(bench_sample.dilate_usual(mask), expected)


def test_a_sample_is_the_sum_of_its_steps_and_a_peer_without_a_way_works_as_the_one_before() -> (
    None
):
    steps = {
        "rotation": {"usual_s": 4.0, "best_s": 1.0, "ours_s": 0.5},
        "tissue": {"usual_s": 20.0, "separable_s": 2.0, "ours_s": 0.5},
    }
    found = bench_sample.sum_up(steps)
    assert (found["usual_ratio"], found["separable_ratio"], found["best_ratio"]) == (24, 6, 3)
    assert found["ours_s"] == 1.0


def test_ours_equals_the_libraries_on_a_small_crop() -> None:
    image, label = bench_sample.make_crop((16, 32, 32), 12.0)
    checks = bench_sample.compare(image, label, torch.device("cpu"))
    assert len(checks) == 6
    assert all(found <= most for _, found, most in checks)


def test_without_nnunet_ours_is_measured_and_nnunet_is_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_prepare, "find_spec", lambda name: None)
    found = bench_prepare.measure((8, 24, 24), rounds=1)
    assert set(found["not_run"]) == {"nnunet_order_3", "nnunet_order_1"}
    assert found["ours_s"] >= 0
    assert not any(name.endswith("_ratio") for name in found)


def test_a_plan_has_the_intensities_of_the_label_alone() -> None:
    case = bench_prepare.make_case((12, 32, 32), (2.5, 2.0, 2.0))
    assert case.label is not None
    assert set(np.unique(case.label)) == {0, 1, 2}
    plans = bench_prepare.make_plans(case, 1)
    found = plans["foreground_intensity_properties_per_channel"]["0"]
    assert found["mean"] == pytest.approx(case.image_hu[case.label > 0].mean())
