"""What the loop lends a method: shown by three throw-away methods, and rule by rule."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from data.dataset import ONE_PER_CENTER, Crop, StageDataset
from data.prepare.prepared_case import PreparedCase
from engine.checkpointing import build_state, load_checkpoint
from engine.step import TrainingStep, weighted_sum
from engine.training import load_crops, total_steps
from methods import METHODS, build_method
from methods.base import Step
from methods.bl import Baseline
from models.complexity import count_complexity
from tests._methods import Auxiliary, Memory, TwoOptimizers
from tests.conftest import NoFile, read_log, same, take_step, train, weights
from utils.config import Config
from utils.distributed import Distributed
from utils.stages import TUMOR_FINE

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
Prepared = dict[str, list[PreparedCase]]
SOURCES = ("A", "B")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {"memory": Memory, "two": TwoOptimizers, "auxiliary": Auxiliary}
    for name, method in methods.items():
        monkeypatch.setitem(METHODS, name, method)


@pytest.fixture
def crops(tiny_prepared: Prepared) -> list[Crop]:
    stage = replace(TUMOR_FINE, jitter_voxels=(4, 4))
    dataset = StageDataset([*tiny_prepared["A"], *tiny_prepared["B"]], stage, 1)
    return [dataset[index] for index in range(3)]


# a state that every step updates


class KilledMemory(Memory):
    """Is terminated in its third step."""

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        if step.number == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_memory_and_an_average_of_weights_survive_a_kill_to_the_bit(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_config(method="memory", epochs=4, checkpoints=tmp_path / "whole"))
    config = tiny_config(method="memory", epochs=4, checkpoints=tmp_path / "killed")
    monkeypatch.setitem(METHODS, "memory", KilledMemory)
    with pytest.raises(SystemExit) as exit_:
        train(config)
    assert exit_.value.code == 143
    (stopped,) = (tmp_path / "killed").glob("*/last.pt")
    assert load_checkpoint(stopped)["step"] == 3
    monkeypatch.setitem(METHODS, "memory", Memory)
    resumed = train(config)
    assert same(weights(whole), weights(resumed))
    assert read_log(whole) == read_log(resumed)
    assert weights(whole)["memory"].count_nonzero() == 2  # one for each source
    assert weights(whole)["average"].item() != 0
    assert len(read_log(whole)) == 6  # 4 epochs of 3 cases, one of A and one of B a step


def test_a_step_of_one_per_center_has_one_case_of_each_source_in_order(
    tiny_config: MakeConfig,
) -> None:
    rows = read_log(train(tiny_config(method="memory", epochs=4)))
    seen = [[case.split("/")[0] for case in row["cases"].split()] for row in rows]
    assert seen == [["A", "B"]] * 6
    of_a = [row["cases"].split()[0] for row in rows]
    assert [sorted(of_a[i : i + 2]) for i in (0, 2, 4)] == [["A/a0", "A/a1"]] * 3


def test_a_source_without_a_case_to_learn_from_is_named(tiny_prepared: Prepared) -> None:
    cases = [*tiny_prepared["A"], *tiny_prepared["N"]]
    with pytest.raises(ValueError, match="of N no training case has a tumor"):
        StageDataset(cases, TUMOR_FINE, 0, ONE_PER_CENTER, ("A", "N"))


@pytest.mark.parametrize("sampling", ["shuffled", ONE_PER_CENTER])
def test_two_processes_take_the_samples_of_one_that_accumulates_two(
    sampling: str, tiny_config: MakeConfig, tiny_prepared: Prepared
) -> None:
    cases = [*tiny_prepared["A"], *tiny_prepared["B"]]
    one = tiny_config("tumor_fine", accumulate=2, epochs=8)
    dataset = StageDataset(cases, one.stage, 1, sampling, SOURCES)
    steps, group = total_steps(one, dataset, 1), dataset.group
    alone = [crop.index for crop in load_crops(dataset, one, Distributed(), 0, steps)]
    two = replace(one, accumulate=1)
    assert total_steps(two, dataset, 2) == steps
    ranks = [
        [crop.index for crop in load_crops(dataset, two, Distributed(rank, 2), 0, steps)]
        for rank in (0, 1)
    ]
    merged = [
        index
        for step in range(steps)
        for rank in (0, 1)
        for index in ranks[rank][step * group : (step + 1) * group]
    ]
    assert merged == alone
    assert sorted(alone) == list(range(len(alone)))
    later = [crop.index for crop in load_crops(dataset, one, Distributed(), 2, steps)]
    assert later == alone[2 * 2 * group :]  # a resumed run


# two optimizers and an own step


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_second_network_with_its_own_optimizer_leaves_the_first_as_the_baseline(
    precision: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    runs = {
        name: train(
            tiny_config(method=name, precision=precision, checkpoints=tmp_path / name, epochs=2)
        )
        for name in ("bl", "two")
    }
    both = weights(runs["two"])
    first = {name: value for name, value in both.items() if name.startswith("network.")}
    assert same(first, weights(runs["bl"]))
    adam, sgd = load_checkpoint(runs["two"].checkpoint)["optimizers"]
    assert adam["state"][0]["step"] == 6
    assert sgd["state"][0]["momentum_buffer"].count_nonzero() > 0
    assert sgd["param_groups"][0]["lr"] == pytest.approx(10 * adam["param_groups"][0]["lr"])
    assert all(float(row["critic"]) > 0 for row in read_log(runs["two"]))


def test_two_optimizers_train_under_a_loss_scale(tiny_config: MakeConfig, tmp_path: Path) -> None:
    half = train(tiny_config(method="two", precision="fp16", checkpoints=tmp_path / "16", epochs=1))
    full = train(tiny_config(method="two", precision="fp32", checkpoints=tmp_path / "32", epochs=1))
    for a, b in zip(read_log(half), read_log(full), strict=True):
        assert float(a["seg"]) == pytest.approx(float(b["seg"]), rel=0.05)
        assert float(a["critic"]) == pytest.approx(float(b["critic"]), rel=0.05)
    fresh = build_state(tiny_config(method="two"), CPU, SOURCES).method.state_dict()
    moved = [not torch.equal(fresh[k], v) for k, v in weights(half).items()]
    assert all(moved)
    assert all(value.dtype == torch.float32 for value in weights(half).values())


# several processes


class Recorder(Distributed):
    """One of two processes that never talk: notes what would be sent."""

    sent: ClassVar[list[str]] = []

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.sent.append("behind")

    def share(self, values: torch.Tensor) -> torch.Tensor:
        return values


class Travelling:
    """Stands for `GradientAverage`."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], size: int) -> None:
        assert size == 2
        assert len(list(parameters)) > 10

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        Recorder.sent.append("with the backward pass")
        yield

    def finish(self) -> None:
        Recorder.sent.append("all there")


@pytest.mark.parametrize(
    ("method", "sent"),
    [("bl", ["with the backward pass", "all there"]), ("two", ["behind", "behind"])],
)
def test_gradients_travel_with_the_last_backward_pass_of_the_default_step_alone(
    method: str,
    sent: list[str],
    tiny_config: MakeConfig,
    crops: list[Crop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Recorder, "sent", [])
    monkeypatch.setattr(NoFile, "processes", Recorder(0, 2))
    monkeypatch.setattr("engine.step.GradientAverage", Travelling)
    config = tiny_config("tumor_fine", method=method, accumulate=2)
    take_step(build_state(config, CPU, SOURCES), config, crops[:2])
    assert Recorder.sent == sent


# an auxiliary network


def test_an_auxiliary_network_is_trained_and_saved_but_never_counted_or_used_to_predict(
    tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method="auxiliary")
    state = build_state(config, CPU, SOURCES)
    before = {k: v.clone() for k, v in state.method.state_dict().items()}
    take_step(state, config, crops[:1])
    after = state.method.state_dict()
    assert not torch.equal(before["auxiliary.weight"], after["auxiliary.weight"])
    plain = build_method(tiny_config("tumor_fine", method="bl"), SOURCES)
    counted, expected = (
        count_complexity(method.network, [(8, 16, 16)]) for method in (state.method, plain)
    )
    assert counted == expected
    image = torch.rand(1, 1, 8, 16, 16)
    state.method.eval()
    with torch.no_grad():
        prob = state.method.predict(image)
        state.method.auxiliary = None
        assert torch.equal(state.method.predict(image), prob)


# rules


def test_eq_11_is_the_sum_of_the_terms_by_their_weights() -> None:
    terms = {"seg": torch.tensor(2.0), "con": torch.tensor(-3.0)}
    assert weighted_sum(terms, {"seg": 1.0, "con": 0.1, "dis": 5.0}) == pytest.approx(1.7)


def test_a_term_without_a_weight_is_an_error_that_names_the_choices() -> None:
    terms = {"seg": torch.tensor(1.0), "extra": torch.tensor(1.0)}
    with pytest.raises(ValueError, match=r"without a weight: extra; the method's terms are seg"):
        weighted_sum(terms, {"seg": 1.0})


class Silent(Baseline):
    """Leaves out the term that it names."""

    terms = {"seg": 1.0, "other": 1.0}  # noqa: RUF012 - a class attribute of the contract


class Idle(Baseline):
    """Never updates."""

    def training_step(self, samples: Sequence[object], step: Step) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("method", "message"),
    [(Silent, "its loss gave no other, which have a weight"), (Idle, r"must call step\.update")],
)
def test_a_method_that_keeps_silent_is_refused(
    method: type[Baseline],
    message: str,
    tiny_config: MakeConfig,
    crops: list[Crop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METHODS, "silent", method)
    config = tiny_config("tumor_fine", method="silent")
    with pytest.raises(ValueError, match=message):
        take_step(build_state(config, CPU, SOURCES), config, crops[:1])


def one_step(state: object, config: Config, crops: Iterator[Crop]) -> TrainingStep:
    step = TrainingStep(config, state, NoFile(), 10)  # type: ignore[arg-type]
    step.samples = step.take(crops, 1)  # type: ignore[attr-defined]
    return step


def test_a_sample_draws_the_same_numbers_after_a_resume_and_others_when_called_again(
    tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method="bl")
    drawn = []
    for _ in range(2):
        step = one_step(build_state(config, CPU, SOURCES), config, iter(crops))
        (sample,) = step.samples  # type: ignore[attr-defined]
        for _ in range(2):
            numbers: list[float] = []

            def loss(sample, generator, into=numbers):  # type: ignore[no-untyped-def]
                into += [float(torch.rand(1, generator=generator)), float(torch.rand(1))]
                return {}

            step.forward(loss, sample)
            drawn.append(numbers)
    assert drawn[0] == drawn[2]
    assert drawn[1] == drawn[3]
    assert not set(drawn[0]) & set(drawn[1])


def test_a_step_has_random_numbers_of_its_own(tiny_config: MakeConfig, crops: list[Crop]) -> None:
    config = tiny_config("tumor_fine", method="bl")
    state = build_state(config, CPU, SOURCES)

    def draw(purpose: int = 0) -> float:
        step = TrainingStep(config, state, NoFile(), 10)  # type: ignore[arg-type]
        return float(torch.rand(1, generator=step.generator(purpose)))

    first = draw()
    assert draw() == first
    assert draw(1) != first
    take_step(state, config, crops[:1])
    assert draw() != first


def test_the_domain_is_the_place_of_the_center_among_the_sources(
    tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method="bl")
    for sources in (("A", "B"), ("B", "A")):
        step = TrainingStep(config, build_state(config, CPU, sources), NoFile(), 10)  # type: ignore[arg-type]
        for sample in step.take(iter(crops), len(crops)):
            assert sources[sample.domain] == sample.center


def test_a_share_of_the_log_changes_the_log_and_not_the_gradient(
    tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method="bl", settings={"weights": {"seg": 2.0}})
    weight = next(build_state(config, CPU, SOURCES).method.network.parameters())
    for logged, noted in ((None, 2.0), (0.5, 4.0)):
        weight.grad = None
        step = one_step(build_state(config, CPU, SOURCES), config, iter(crops))
        step.backward({"seg": (weight + 1).sum() * 0 + 8}, 0.25, logged)
        step.backward({"seg": weight.sum()}, 0.25, 0.0)
        assert step._sums["seg"] == noted
        assert step._sums["total"] == 2 * noted
        assert weight.grad is not None
        assert bool((weight.grad == 0.5).all())


@dataclass(frozen=True)
class Counted(Distributed):
    """Notes how often values are shared, behind which they are read."""

    shared: list[int] = field(default_factory=list)

    def share(self, values: torch.Tensor) -> torch.Tensor:
        self.shared.append(len(values))
        return super().share(values)


@pytest.mark.parametrize(("method", "reads"), [("bl", 1), ("two", 2)])
def test_the_logs_values_are_read_once_for_each_update(
    method: str, reads: int, tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    config = tiny_config("tumor_fine", method=method)
    state = build_state(config, CPU, SOURCES)
    step = one_step(state, config, iter(crops))
    step.save.processes = Counted()
    state.method.training_step(step.samples, step)  # type: ignore[attr-defined]
    values = step.finish()
    assert step.save.processes.shared[-1] == len(values)
    assert len(step.save.processes.shared) == reads


def test_a_step_knows_its_place_and_what_gradients_are_multiplied_by(
    tiny_config: MakeConfig, crops: list[Crop]
) -> None:
    for precision, scaled in (("fp32", False), ("bf16", False), ("fp16", True)):
        config = tiny_config("tumor_fine", method="bl", precision=precision)
        state = build_state(config, CPU, SOURCES)
        step = one_step(state, config, iter(crops))
        assert (step.number, step.total, step.progress) == (1, 10, 0.0)
        weight = next(state.method.network.parameters())
        step.backward({"seg": weight.sum()})
        assert (step.loss_scale > 1) == scaled
        assert weight.grad is not None
        assert bool((weight.grad == step.loss_scale).all())
