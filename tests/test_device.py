"""Devices, arithmetic, and the processes that train together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, start_script
from utils.device import (
    autocast,
    free_memory,
    is_out_of_memory,
    select_device,
    select_precision,
    tune_convolutions,
)
from utils.distributed import Distributed, join_processes

CPU = torch.device("cpu")


def test_auto_is_a_gpu_where_there_is_one_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto") == torch.device("cuda", 0)
    assert select_device("cuda:1") == torch.device("cuda", 1)


def test_under_torchrun_each_process_takes_the_gpu_of_its_local_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert select_device("auto") == select_device("cuda") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["cuda:7", "tpu", "mps", "", "cpu1"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"--device {name}:"):
        select_device(name)


def test_apples_gpu_is_for_prediction_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert select_device("auto", mps=True) == select_device("mps", mps=True) == torch.device("mps")
    assert select_device("auto") == CPU
    assert select_precision("auto", torch.device("mps"), training=False) == "fp32"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert select_device("auto", mps=True) == CPU
    with pytest.raises(ValueError, match="--device mps: this machine shows no Apple GPU"):
        select_device("mps", mps=True)
    with pytest.raises(ValueError, match="--device tpu: choose cpu, cuda, cuda:N, mps or auto"):
        select_device("tpu", mps=True)


def test_a_precision_that_is_given_is_kept_and_auto_is_one_that_the_cpu_computes() -> None:
    assert [select_precision(name, CPU, training=True) for name in ("bf16", "fp16", "fp32")] == [
        "bf16", "fp16", "fp32",
    ]  # fmt: skip
    assert select_precision("auto", CPU, training=True) in ("bf16", "fp32")


def test_a_cpu_predicts_in_fp32_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_precision("auto", CPU, training=False) == "fp32"
    assert select_precision("bf16", CPU, training=False) == "bf16"
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert select_precision("auto", CPU, training=True) == "bf16"
    assert select_precision("auto", CPU, training=False) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    gpu = torch.device("cuda", 0)
    assert [select_precision("auto", gpu, training=t) for t in (True, False)] == ["bf16", "fp16"]


def test_memory_that_is_too_small_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_product_is_computed_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_single_process_is_first_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes(CPU) as processes:
        assert processes == Distributed(0, 1)
        assert processes.first
        parameter = torch.nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([1.0, 2.0])
        processes.average_gradients([parameter])
        assert parameter.grad.tolist() == [1.0, 2.0]
        assert processes.share(torch.tensor([3.0])).tolist() == [3.0]
        assert processes.from_first("x") == "x"
        assert processes.gather("x") == ["x"]
        processes.wait()


TWO_PROCESSES = """
import torch
from utils import gradients
from utils.distributed import join_processes
cpu = torch.device("cpu")
with join_processes(cpu) as processes:
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 2))
    c = torch.nn.Parameter(torch.zeros(3))
    a.grad = torch.tensor([1.0, 4.0]) * (processes.rank + 1)
    if processes.first:
        b.grad = torch.tensor([[6.0, 0.0]])
    processes.average_gradients([a, b, c])
    assert a.grad.tolist() == [1.5, 6.0] and b.grad.tolist() == [[3.0, 0.0]], (a.grad, b.grad)
    assert c.grad is None  # nobody's
    assert processes.largest(processes.rank) == 1

    # overlapped with the last of two passes, in which each process takes a path of its own
    torch.manual_seed(0)
    layers = torch.nn.ModuleList(torch.nn.Linear(5, 5) for _ in range(5))
    path = [layers[1], layers[2 + processes.rank], layers[4]]  # the first is nobody's
    def loss(batch):
        for layer in path:
            batch = layer(batch).tanh()
        return batch.square().mean()
    first, last = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(processes.rank))
    parameters = list(layers.parameters())
    loss(first).backward()
    loss(last).backward()
    mean = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                      for p in parameters])
    torch.distributed.all_reduce(mean)
    mean /= 2
    # bytes of a message: each parameter alone, two layers, all; what each process sends early
    for size, early in ((1, (2, 4)), (240, (0, 1)), (10**6, (0, 0))):
        layers.zero_grad()
        gradients.MESSAGE_BYTES = size
        loss(first).backward()
        average = gradients.GradientAverage(parameters, 2)
        with average.overlapped():
            loss(last).backward()
        assert len(average._sent) == early[processes.rank], (size, len(average._sent))
        average.finish()
        assert [p.grad is None for p in parameters] == [True] * 2 + [False] * 8
        found = torch.cat([p.grad.flatten() for p in parameters[2:]])
        assert torch.equal(found, mean[-len(found) :])
    assert all(not p._post_accumulate_grad_hooks for p in parameters)
    assert processes.share(torch.tensor([float(processes.rank)])).tolist() == [0.5]
    assert processes.from_first(f"of {processes.rank}") == "of 0"
    assert processes.gather(f"of {processes.rank}") == ["of 0", "of 1"]
    processes.wait()
    print("right in", processes.rank)
"""


@pytest.mark.slow
def test_two_processes_average_agree_and_share(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{TWO_PROCESSES}")
    process = start_script(str(script), processes=2)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert shown.count("right in") == 2


def test_a_gpu_computes_float32_exactly_and_tries_algorithms_where_shapes_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What PyTorch is told, without a GPU; not what a GPU does with it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for owner, name in (
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "deterministic"),
    ):
        monkeypatch.setattr(owner, name, True)
    torch.backends.cuda.matmul.allow_tf32 = True
    gpu = select_device("auto")
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    for repeat in (False, True):
        tune_convolutions(gpu, shapes_repeat=repeat)
        assert torch.backends.cudnn.benchmark == repeat
    tune_convolutions(CPU, shapes_repeat=False)
    assert torch.backends.cudnn.benchmark


def test_free_is_what_the_driver_and_pytorch_itself_have_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 24))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3)
    assert free_memory(torch.device("cuda", 0)) == 12
    assert free_memory(CPU) is None
