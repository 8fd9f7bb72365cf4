"""Estimates: what is left is counted exactly, speeds are measured without leaving anything."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.centers import load_centers
from engine.case_metrics import write_cases
from engine.checkpointing import save_checkpoint
from engine.results import result_folder
from engine.run_folders import create_run, mark_done
from engine.split_selection import with_contents
from reproduce.experiments import estimate
from reproduce.experiments.cells import EVALUATE, TRAIN, Step, make_cell, steps_of
from reproduce.experiments.estimate import (
    Speed,
    find_cases,
    known_speeds,
    logged_speeds,
    mean_seconds,
    measure_speed,
    model_key,
    spread,
)
from reproduce.experiments.finished import Splits
from reproduce.experiments.inputs import preparations_of
from reproduce.experiments.plan import Plan
from reproduce.experiments.workload import describe_loads, loads_of, plan_wall
from reproduce.workflow.actions import entries_of
from reproduce.workflow.plan_file import write_status
from tests.conftest import Tiny
from utils.config import Config
from utils.device import select_device, select_precision
from utils.stages import STAGES

SMALL = (
    *("--width", "8", "--spacing", "3", "1.5", "1.5", "--workers", "0", "--no-tensorboard"),
    *("--jitter-voxels", "0", "4", "--window-voxels", "32", "32", "--epochs", "5"),
)


@pytest.fixture
def plan(tiny: Tiny, tmp_path: Path) -> Plan:
    """Centers A (2 cases), B (1), C (2) and N (1, lesion-free); five epochs."""
    return Plan(tiny.centers, tmp_path / "checkpoints", tiny.cache, holdout=0, options=SMALL)


@pytest.fixture
def splits(plan: Plan) -> Splits:
    return Splits(plan.centers)


@pytest.fixture
def steps(plan: Plan) -> dict[tuple[str, str], Step]:
    """The steps of Table V's Ours on C, by kind and stage."""
    cell = make_cell(load_centers(plan.centers), "tumor_fine", "C")
    return {(step.kind, step.stage): step for step in steps_of(plan, cell)}


def config_of(step: Step) -> Config:
    """The configuration as a training on this machine's CPU resolves it."""
    return replace(
        step.config, precision=select_precision("auto", select_device("cpu"), training=True)
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models each measurement was asked for; none takes any time."""
    asked: list[int] = []

    def measure(
        wanted: dict[str, Config], device: str, seconds: float | None
    ) -> Generator[tuple[str, Speed], None, None]:
        asked.append(len(wanted))
        for key in wanted:
            yield key, Speed(1.0, 2.0)

    monkeypatch.setattr(estimate, "measure_speeds", measure)
    return asked


# What is left


def test_nothing_done_is_every_case_in_every_epoch_and_every_test_case(
    steps: dict[tuple[str, str], Step], splits: Splits
) -> None:
    loads = loads_of(steps.values(), splits)
    assert loads[steps[TRAIN, "tumor_fine"]].count == 5 * 3  # A and B
    assert loads[steps[TRAIN, "pancreas_coarse"]].count == 5 * 4  # and N
    assert loads[steps[EVALUATE, "tumor_fine"]].count == 2  # C


def test_an_unfinished_training_counts_what_is_behind_its_checkpoint(
    plan: Plan, steps: dict[tuple[str, str], Step], splits: Splits
) -> None:
    step = steps[TRAIN, "tumor_coarse"]
    split = with_contents(splits.of(step.config), splits.contents(step.config))
    run = create_run(config_of(step), plan.time, split)
    assert loads_of([step], splits)[step].count == 15  # begun, nothing saved
    save_checkpoint(run.checkpoint, {"step": 4})
    assert loads_of([step], splits)[step].count == 11
    other = replace(step, request=replace(step.config, lr=0.5))
    assert loads_of([other], splits)[other].count == 15  # that run is not this one's
    two = replace(step, request=replace(step.config, lr=0.5, accumulate=2))
    assert loads_of([two], splits)[two].count == 8


def test_an_unfinished_evaluation_counts_the_cases_that_it_lacks(
    plan: Plan, steps: dict[tuple[str, str], Step], splits: Splits
) -> None:
    step = steps[EVALUATE, "tumor_coarse"]
    config = config_of(step.training)
    split = with_contents(splits.of(config), splits.contents(config))
    run = create_run(config, plan.time, split)
    mark_done(run.folder)
    folder = result_folder(run, "tumor_coarse", "C", step.evaluation)
    write_cases(folder / "cases.csv", [{"case_id": "c0", "dsc": 1.0}])
    assert loads_of([step], splits)[step].count == 1


def test_hours_are_steps_times_seconds_and_what_was_not_measured_is_named(
    steps: dict[tuple[str, str], Step], splits: Splits
) -> None:
    train, evaluate = steps[TRAIN, "tumor_fine"], steps[EVALUATE, "tumor_fine"]
    loads = loads_of([train, evaluate, steps[TRAIN, "tumor_coarse"]], splits)
    speeds = {loads[train].key: Speed(step_s=240.0, case_s=36.0)}
    assert loads[train].seconds(speeds) == 15 * 240.0
    assert loads[evaluate].seconds(speeds) == 2 * 36.0
    assert loads[steps[TRAIN, "tumor_coarse"]].seconds(speeds) is None
    text = describe_loads(loads.values(), speeds, 1800.0, "cuda:0 cuda:1")
    assert "expected: 1.02 device hours, 0.5 hours on cuda:0 cuda:1" in text
    assert "not in it, not measured: train tumor_coarse ours" in text


# The clock of several devices


@pytest.mark.parametrize(
    ("seconds", "needs", "devices", "wall_s"),
    [
        ({"a": 3.0, "b": 4.0}, {}, 1, 7.0),
        ({"a": 3.0, "b": 4.0}, {}, 2, 4.0),
        ({"a": 3.0, "b": 4.0}, {"b": ["a"]}, 2, 7.0),  # a chain gains nothing
        ({"a": 1.0, "b": 5.0, "c": 1.0, "d": 1.0}, {"c": ["a"], "d": ["c"]}, 2, 5.0),
        ({"c": 2.0, "a": 1.0, "b": 1.0}, {"c": ["a", "b"]}, 2, 3.0),  # in any order
        ({}, {}, 3, 0.0),
    ],
)
def test_the_wall_time_follows_needs_and_devices(
    seconds: dict[str, float], needs: dict[str, list[str]], devices: int, wall_s: float
) -> None:
    assert plan_wall(seconds, needs, devices) == wall_s


# The plan file


def test_steps_stand_in_the_plan_file_behind_the_preparing(
    plan: Plan, steps: dict[tuple[str, str], Step], splits: Splits
) -> None:
    loads = loads_of(steps.values(), splits)
    entries = {entry.name: entry for entry in entries_of(loads, "cpu 1")}
    assert len(entries) == 1 + len(steps)
    prepare = entries["prepare_3x1.5x1.5"]
    assert set(prepare.request["only"]) == {"A", "B", "C", "N"}
    assert prepare.alone
    assert f"--centers {plan.centers}" in prepare.command
    assert entries["evaluate_tumor_fine_ours_A+B_on_C_seg_target"].needs == (
        "prepare_3x1.5x1.5",
        "train_tumor_fine_ours_A+B",
        "evaluate_tumor_coarse_ours_A+B_on_C_seg_target",
    )
    assert entries["train_tumor_fine_ours_A+B"].facts == {
        **{"model": loads[steps[TRAIN, "tumor_fine"]].key, "field": "step_s"},
        **{"count": 15, "label": "cpu 1"},
    }


def test_what_is_done_is_no_step_and_none_waits_for_it(
    steps: dict[tuple[str, str], Step], splits: Splits
) -> None:
    step = steps[EVALUATE, "tumor_fine"]
    _, entry = entries_of(loads_of([step], splits), "cpu 1")
    assert entry.needs == ("prepare_3x1.5x1.5",)


def test_each_voxel_size_is_prepared_once_for_the_centers_that_need_it(
    steps: dict[tuple[str, str], Step],
) -> None:
    train, fine = steps[TRAIN, "tumor_fine"], steps[TRAIN, "pancreas_fine"]
    other = replace(fine, request=replace(fine.config, spacing=(4.0, 2.0, 2.0)))
    prepared = preparations_of([train, other])
    assert (prepared[train].name, prepared[train].only) == ("prepare_3x1.5x1.5", ("A", "B", "C"))
    assert (prepared[other].name, prepared[other].only) == ("prepare_4x2x2", ("A", "B", "N", "C"))


# Logged


def test_finished_steps_tell_the_speed_of_their_model_on_that_device(
    steps: dict[tuple[str, str], Step], tmp_path: Path, measured: list[int]
) -> None:
    config = config_of(steps[TRAIN, "tumor_fine"])
    key = model_key(config)
    facts = {"model": key, "field": "step_s", "label": "cpu 1"}
    for name, status, count, seconds in (
        ("a", "done", 10, 30.0),
        ("b", "done", 10, 10.0),
        ("c", "failed", 10, 900.0),
        ("d", "done", 0, 5.0),
    ):
        own = {"status": status, "seconds": seconds, "facts": {**facts, "count": count}}
        write_status(tmp_path, name, own)
    write_status(tmp_path, "prepare", {"status": "done", "seconds": 9.0, "facts": None})
    assert logged_speeds(tmp_path, "cpu 1") == {key: Speed(step_s=2.0)}
    assert logged_speeds(tmp_path, "cpu 2") == {}
    assert known_speeds([config], "cpu", "cpu 1", tmp_path) == {key: Speed(step_s=2.0)}
    assert measured == []  # nothing to measure
    known_speeds([config], "cpu", "cpu 2", tmp_path)
    assert measured == [1]
    assert known_speeds([replace(config, width=16)], "cpu", "slurm", tmp_path, seconds=0) == {}
    assert measured == [1]


# Measuring


def test_models_that_cost_the_same_share_a_measurement(
    steps: dict[tuple[str, str], Step],
) -> None:
    config = config_of(steps[TRAIN, "tumor_fine"])
    for alike in (
        replace(config, seed=7),
        replace(config, target="A", sources=("B", "C")),
        replace(config, sources=(), fold="2"),
        replace(config, holdout=0.2),
        replace(config, holdout=0.2, validate_epochs=5, patience=6),
        replace(config, stage=replace(config.stage, epochs=9)),
    ):
        assert model_key(alike) == model_key(config)
    for other in (
        replace(config, width=16),
        replace(config, settings=replace(config.settings, view_count=3)),
        config_of(steps[TRAIN, "tumor_coarse"]),
    ):
        assert model_key(other) != model_key(config)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """An action whose times the clock shows as given."""

    def make(*seconds: float) -> Callable[[], None]:
        now, left = [0.0], iter(seconds)

        def act() -> None:
            now[0] += next(left)

        monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
        return act

    return make


def test_the_first_step_is_warm_up_unless_it_took_too_long(
    clock: Callable[..., Callable[[], None]],
) -> None:
    cpu = torch.device("cpu")
    assert mean_seconds(clock(9.0, 1.0, 2.0), 3, cpu) == 1.5
    assert mean_seconds(clock(estimate.MEASURED_S + 1), 3, cpu) == estimate.MEASURED_S + 1
    assert mean_seconds(clock(9.0, 25.0), 3, cpu) == 25.0  # enough by then


def test_cases_to_measure_on_lie_far_apart() -> None:
    names = [("A", str(i)) for i in range(90)]
    chosen = list(spread(names, 9))
    assert sorted(int(name) for _, name in chosen) == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert [int(name) for _, name in chosen[:3]] == [0, 30, 60]
    assert list(spread(names[:2], 9)) == names[:2]


def test_a_tumor_stage_is_measured_on_cases_with_lesions(
    steps: dict[tuple[str, str], Step],
) -> None:
    found = find_cases(config_of(steps[TRAIN, "tumor_fine"]), {})
    assert {case.center for case in found} == {"A", "B"}
    pancreas = config_of(steps[TRAIN, "pancreas_fine"])
    names = {case.center for case in find_cases(pancreas, {})}
    assert names <= {"A", "B", "N"}
    assert len(find_cases(pancreas, {})) == estimate.SAMPLE_CASES


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_measurement_is_a_time_and_leaves_nothing_behind(
    plan: Plan, steps: dict[tuple[str, str], Step], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config_of(steps[TRAIN, stage]), device="cpu")
    monkeypatch.setattr(estimate, "MEASURED_STEPS", 1)
    found = find_cases(config, {})
    speed = measure_speed(config, found)
    assert speed.step_s is not None
    assert speed.case_s is not None
    assert 0 < speed.step_s < 60
    assert 0 < speed.case_s < 60
    assert not plan.checkpoints.exists()


def test_a_model_is_measured_once_on_a_device(
    steps: dict[tuple[str, str], Step], measured: list[int], tmp_path: Path
) -> None:
    config = config_of(steps[TRAIN, "tumor_fine"])
    alike, other = replace(config, seed=1), replace(config, width=16)
    asked = ("cpu", "cpu 1", tmp_path / "out")
    assert known_speeds([config, alike], *asked) == {model_key(config): Speed(1.0, 2.0)}
    assert set(known_speeds([alike, other], *asked)) == {model_key(config), model_key(other)}
    known_speeds([config, other], *asked)
    assert measured == [1, 1]


def test_a_model_that_cannot_be_measured_is_asked_for_again(
    steps: dict[tuple[str, str], Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(steps[TRAIN, "tumor_fine"])

    def measure(*given: object) -> Generator[tuple[str, Speed], None, None]:
        yield model_key(config), Speed()

    monkeypatch.setattr(estimate, "measure_speeds", measure)
    assert known_speeds([config], "cpu", "cpu 1", tmp_path) == {}
    assert not (tmp_path / "speeds.json").exists()


def test_what_was_measured_before_the_end_is_kept(
    steps: dict[tuple[str, str], Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(steps[TRAIN, "tumor_fine"])
    other = replace(config, width=16)
    ends = []

    def measure(*given: object) -> Generator[tuple[str, Speed], None, None]:
        try:
            yield model_key(config), Speed(1.0, 2.0)
            raise SystemExit(143)  # SIGTERM
        finally:
            ends.append("ended")

    with monkeypatch.context() as patch:
        patch.setattr(estimate, "measure_speeds", measure)
        with pytest.raises(SystemExit):
            known_speeds([config, other], "cpu", "cpu 1", tmp_path)
    assert ends == ["ended"]
    known = known_speeds([config], "cpu", "cpu 1", tmp_path)
    assert known == {model_key(config): Speed(1.0, 2.0)}


def test_what_is_not_measured_in_time_is_left_out_and_its_process_ends(
    steps: dict[tuple[str, str], Step], capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(steps[TRAIN, "tumor_fine"])
    wanted = {"a": config, "b": replace(config, width=16)}
    assert list(estimate.measure_speeds(wanted, "cpu", seconds=0.0)) == []
    text, errors = capfd.readouterr()
    assert text == "2 models not measured in 0 s\n"
    assert errors == ""
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_the_measuring_process_names_what_it_cannot_measure(
    steps: dict[tuple[str, str], Step], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(steps[TRAIN, "tumor_fine"])
    missing = replace(config, centers=tmp_path / "none.toml", width=16)
    speeds = dict(estimate.measure_speeds({"there": config, "missing": missing}, "cpu"))
    assert speeds["missing"] == Speed()
    step_s = speeds["there"].step_s
    assert step_s is not None
    assert step_s > 0
    assert "none.toml: cannot be read" in capfd.readouterr().out
