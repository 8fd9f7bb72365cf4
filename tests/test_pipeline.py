"""Three steps at once: order, how far each may run ahead, and what is kept when one fails."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from engine.pipeline import overlaps, run_pipeline
from utils.threads import one_blas_thread

SOON_S = 30.0  # on a busy machine
ITEMS = [0, 1, 2, 3, 4]


class Steps:
    """Notes what each step has begun and ended; raises where it is told."""

    def __init__(self, **fails: int) -> None:
        self.fails = fails  # step -> item
        self.begun: dict[str, list[int]] = {"read": [], "predict": [], "write": []}
        self.ended: dict[str, list[int]] = {"read": [], "predict": [], "write": []}
        self.before: dict[tuple[str, int], Callable[[], Any]] = {}

    def run(self, *, overlap: bool = True) -> None:
        run_pipeline(ITEMS, self.read, self.predict, self.write, overlap=overlap)

    def read(self, item: int) -> str:
        self._step("read", item)
        return f"data {item}"

    def predict(self, item: int, data: str) -> str:
        assert data == f"data {item}"
        self._step("predict", item)
        return f"found {item}"

    def write(self, item: int, found: str) -> None:
        assert found == f"found {item}"
        self._step("write", item)

    def _step(self, name: str, item: int) -> None:
        self.begun[name].append(item)
        self.before.get((name, item), lambda: None)()
        if self.fails.get(name) == item:
            raise OSError(f"{name} {item}")
        self.ended[name].append(item)


@pytest.mark.parametrize("overlap", [False, True])
def test_every_item_takes_the_three_steps_in_order(overlap: bool) -> None:
    steps = Steps()
    steps.run(overlap=overlap)
    assert steps.ended == dict.fromkeys(steps.ended, ITEMS)
    run_pipeline([], steps.read, steps.predict, steps.write, overlap=overlap)


def test_while_an_item_is_predicted_the_next_is_read_and_the_last_one_written() -> None:
    steps = Steps()
    all_three = threading.Barrier(3)
    for name, item in (("write", 1), ("predict", 2), ("read", 3)):
        steps.before[name, item] = lambda: all_three.wait(SOON_S)
    steps.run()
    assert steps.ended["write"] == ITEMS


def test_no_more_than_one_item_waits_on_each_side() -> None:
    steps = Steps()
    near: list[bool] = []

    def note(other: str, item: int) -> None:
        near.append(len(steps.ended[other]) >= item - 1)

    for item in ITEMS:
        steps.before["read", item] = functools.partial(note, "predict", item)
        steps.before["predict", item] = functools.partial(note, "write", item)
    steps.run()
    assert near == [True] * 2 * len(ITEMS)


@pytest.mark.parametrize("overlap", [False, True])
def test_what_cannot_be_read_ends_it_after_the_items_before_are_written(overlap: bool) -> None:
    steps = Steps(read=2)
    with pytest.raises(OSError, match="read 2"):
        steps.run(overlap=overlap)
    assert steps.ended["predict"] == steps.ended["write"] == [0, 1]


def test_what_cannot_be_written_loses_nothing_that_was_computed() -> None:
    steps = Steps(write=1)
    steps.before["write", 1] = wait_for(steps.begun["predict"], 2)
    with pytest.raises(OSError, match="write 1"):
        steps.run()
    assert steps.ended["predict"] == [0, 1, 2]
    assert steps.ended["write"] == [0, 2]


def test_after_a_failed_write_nothing_more_is_predicted() -> None:
    steps = Steps(write=0)
    with pytest.raises(OSError, match="write 0"):
        steps.run()
    assert 2 not in steps.begun["predict"]
    assert set(steps.ended["write"]) == set(steps.ended["predict"]) - {0}


def test_of_two_that_fail_the_first_item_is_named() -> None:
    steps = Steps(write=0, predict=1)
    steps.before["write", 0] = wait_for(steps.begun["predict"], 1)
    with pytest.raises(OSError, match="write 0") as caught:
        steps.run()
    assert str(caught.value.__cause__) == "predict 1"


def wait_for(begun: list[int], item: int) -> Callable[[], None]:
    """Returns when the item has begun."""

    def wait() -> None:
        for _ in range(int(SOON_S * 100)):
            if item in begun:
                return
            threading.Event().wait(0.01)
        raise TimeoutError

    return wait


def test_a_signal_ends_it_after_what_was_computed_is_written() -> None:
    steps, told = Steps(), threading.Event()

    def exit_now(number: int, frame: FrameType | None) -> None:
        told.set()
        raise SystemExit(128 + number)

    def send() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(SOON_S)  # the main thread is on its way out

    steps.before["write", 1] = send
    steps.before["predict", 2] = lambda: threading.Event().wait(SOON_S)
    before = signal.signal(signal.SIGTERM, exit_now)
    try:
        with pytest.raises(SystemExit, match="143"):
            steps.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps.ended["write"] == [0, 1]
    assert steps.ended["predict"] == [0, 1]


def test_blas_has_as_many_threads_behind_it_as_before() -> None:
    def blas_threads() -> set[int]:
        return {part["num_threads"] for part in threadpool_info() if part["user_api"] == "blas"}

    steps = Steps()
    both = threading.Barrier(2)

    def limited() -> None:
        with one_blas_thread():  # one ends while the other has begun
            both.wait(SOON_S)

    steps.before = {("read", 2): limited, ("write", 0): limited}
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        steps.run()
        assert blas_threads() == before


def test_on_a_cpu_it_needs_a_core_beside_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    for threads, expected in ((1, True), (2, False), (4, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert overlaps(cpu) == expected
    assert overlaps(torch.device("cuda"))
