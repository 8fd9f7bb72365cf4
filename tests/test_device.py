"""Devices, arithmetic, and the processes that train together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, start_script
from utils.device import autocast, is_out_of_memory, select_device, select_precision
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
    assert [select_precision("auto", gpu, training=t) for t in (True, False)] == ["bf16"] * 2


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
        assert processes.all_true(True, CPU)
        assert not processes.all_true(False, CPU)
        assert processes.share(torch.tensor([3.0])).tolist() == [3.0]
        assert processes.from_first("x") == "x"
        assert processes.gather("x") == ["x"]
        processes.wait()


TWO_PROCESSES = """
import torch
from utils.distributed import join_processes
cpu = torch.device("cpu")
with join_processes(cpu) as processes:
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 2))
    a.grad = torch.tensor([1.0, 4.0]) * (processes.rank + 1)
    if processes.first:
        b.grad = torch.tensor([[6.0, 0.0]])
    processes.average_gradients([a, b])
    assert a.grad.tolist() == [1.5, 6.0] and b.grad.tolist() == [[3.0, 0.0]], (a.grad, b.grad)
    assert processes.all_true(True, cpu) and not processes.all_true(processes.first, cpu)
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
