"""Presets: typed values that fit every method, the same for all rows; synthetic centers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.centers import load_centers
from data.phantom.centers import APART
from methods import EXTERNAL, METHODS, build_external, build_method, make_config
from reproduce.experiments.plan import Plan
from reproduce.experiments.presets import PRESETS, Phantoms
from utils.settings import flatten
from utils.stages import STAGE_NAMES, STAGES


@pytest.mark.parametrize("stage", STAGE_NAMES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fits_every_method_in_every_stage(preset: str, method: str, stage: str) -> None:
    config = Plan(preset=preset).config(stage, method)
    assert config.method == method
    with torch.device("meta"):
        build_method(config)
    known = dict(METHODS[method].terms)
    assert set(config.settings.weights) <= set(known)
    if "con" in known and preset != "paper":
        assert config.settings.weights["con"] == 0.1


def test_what_a_preset_names_is_a_setting_of_some_method() -> None:
    every: list[Any] = [*METHODS.values(), *EXTERNAL.values()]
    settings = [
        name
        for method in every
        for stage in STAGES.values()
        for name, _, _ in flatten(method.default_settings(stage))
    ]
    for preset in PRESETS.values():
        assert set(preset.method_values) <= set(settings)


@pytest.mark.parametrize("name", PRESETS)
def test_nnunet_has_its_own_budget_on_a_gpu_and_a_smoke_test_on_a_cpu(name: str) -> None:
    for method in EXTERNAL:
        iterations, own = build_external(Plan(preset=name).config("tumor_fine", method)).budget()
        assert iterations == (own if name in ("paper", "full") else 2)


@pytest.mark.parametrize("name", ["small", "demo", "quick"])
def test_kernels_reach_as_far_in_mm_as_at_the_papers_voxel_size_in_every_row(name: str) -> None:
    """Cutout's hole is a part of the crop, whose margins are the same in mm."""
    changed = []
    for method in METHODS:
        paper, here = (Plan(preset=p).config("tumor_fine", method) for p in ("paper", name))
        side = here.spacing[1] / paper.spacing[1]  # of a voxel within a slice
        before, after = ({n: v for n, _, v in flatten(c.settings)} for c in (paper, here))
        for key in (key for key in before if key.endswith("kernel_sizes")):
            assert set(after[key]) == {1 + 2 * round(k // 2 / side) for k in before[key]}
            changed.append(method)
        if method == "bigaug":
            assert after["stack.noise_std"] == tuple(x / 2 for x in before["stack.noise_std"])
            assert here.settings.augment.noise_std == paper.settings.augment.noise_std / 2
    assert {"ours", "randconv", "labelwise", "gin"} <= set(changed)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_only_the_smallest_network_has_no_slice_head(name: str, stage: str) -> None:
    config = Plan(preset=name).config(stage, "ours")
    assert config.settings.slices == (stage == "tumor_fine" and name != "small")


def test_the_papers_preset_changes_nothing_and_every_other_has_centers() -> None:
    for stage in STAGES.values():
        for method in METHODS:
            config = make_config(stage, method)
            assert PRESETS["paper"].apply(config) == config
    assert all(preset.phantoms for name, preset in PRESETS.items() if name != "paper")


@pytest.mark.parametrize("name", PRESETS)
def test_rows_differ_by_their_methods_own_settings_alone(name: str) -> None:
    for stage in STAGES:
        bl, ours = (Plan(preset=name, time="t").config(stage, m) for m in ("bl", "ours"))
        assert replace(bl, method="", settings=None) == replace(ours, method="", settings=None)
        assert bl.settings.augment == ours.settings.augment


def test_an_unknown_value_of_a_preset_is_named() -> None:
    wrong = replace(PRESETS["quick"], values={"widht": 8})
    with pytest.raises(ValueError, match="unknown setting 'widht'"):
        wrong.apply(make_config(STAGES["tumor_fine"]))


@pytest.mark.slow
def test_the_synthetic_centers_are_made_once_and_kept(tmp_path: Path) -> None:
    phantoms = Phantoms(cases=1, size="demo", centers=APART)
    toml = phantoms.draw(tmp_path)
    assert sorted(load_centers(toml)) == sorted(APART)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    assert phantoms.draw(tmp_path) == toml
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")} == times
    with pytest.raises(ValueError, match="choose another folder or remove this one"):
        replace(phantoms, seed=1).draw(tmp_path)
