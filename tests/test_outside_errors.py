"""Full disks, lost mounts, too little memory, killed workers: one message; the state survives."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import utils.files
from data.dataset import StageDataset
from data.prepare.one_case import case_error
from engine.checkpointing import load_checkpoint, save_checkpoint
from engine.loading import SHARED_MEMORY, load_crops
from engine.run_folders import find_runs
from engine.training import fit, make_dataset
from methods import METHODS, build_method
from methods.bl import Baseline
from tests.conftest import read_log, same, train, weights, write_tiny_centers
from utils.config import Config, StoppedError
from utils.distributed import Distributed
from utils.errors import describe_error
from utils.files import check_folder, write_text
from utils.scripts import run_script

MakeConfig = Callable[..., Config]


def os_error(number: int, path: Path | str | None = "place/file") -> OSError:
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.ENOTDIR, "a file is where a folder belongs"),
        (errno.EISDIR, "a folder is where a file belongs"),
        (errno.EIO, "may be failing"),
        (errno.ESTALE, "mount it again"),
        (errno.ENOTCONN, "mount it again"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_each_cause_is_one_message_with_path_and_cure_and_status_2(
    number: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(request: None) -> None:
        raise os_error(number)

    with pytest.raises(SystemExit) as ended:
        run_script(fail, None)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: place/file: ")
    assert said in text
    assert text.count("\n") == 1


def test_memory_of_host_and_gpu_are_told_apart_and_a_fault_of_the_code_stays_one() -> None:
    assert "GPU" in str(describe_error(torch.OutOfMemoryError("CUDA out of memory. Tried")))
    for error in (MemoryError(), RuntimeError("[enforce] DefaultCPUAllocator: can't allocate")):
        assert str(describe_error(error)).startswith("there is too little memory")
    assert describe_error(KeyError("x")) is None
    assert describe_error(RuntimeError("shapes differ")) is None


def test_a_full_disk_keeps_the_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise os_error(errno.ENOSPC, None)

    monkeypatch.setattr(utils.files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_text(path, "new")
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["last.pt"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A write beyond fails in the middle, as on a disk that fills."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_no_longer_fits_is_the_disks_error_and_both_old_ones_stay(
    tmp_path: Path,
) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for number in range(3):
        save_checkpoint(last, {"a": torch.full((5,), number)}, keep=previous)
    with files_of_at_most(100_000), pytest.raises(OSError, match="File too large") as raised:
        save_checkpoint(last, {"a": torch.zeros(100_000)}, keep=previous)
    assert raised.value.filename == str(last)
    assert load_checkpoint(last)["a"][0] == 2
    assert load_checkpoint(previous)["a"][0] == 1
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]


def test_where_a_disk_has_no_links_the_old_file_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: Any) -> None:
        raise os_error(errno.EPERM)

    monkeypatch.setattr(utils.files.os, "link", refuse)
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for number in range(2):
        save_checkpoint(last, {"a": number}, keep=previous)
    assert (load_checkpoint(last)["a"], load_checkpoint(previous)["a"]) == (1, 0)


def test_a_training_on_a_full_disk_says_what_is_saved_and_resumes_to_the_same_bits(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(method="bl", epochs=3, time="t", checkpoint_seconds=0.0)
    real, saved = os.fsync, []

    def fill(descriptor: int) -> None:
        if "last.pt" in os.readlink(f"/proc/self/fd/{descriptor}"):
            saved.append(descriptor)
            if len(saved) == 2:
                raise os_error(errno.ENOSPC, None)
        real(descriptor)

    monkeypatch.setattr(utils.files.os, "fsync", fill)
    with pytest.raises(OSError, match="No space") as raised:
        fit(config)
    (run,) = find_runs(config.checkpoints, "tumor_coarse")
    message = str(describe_error(raised.value))
    assert message.startswith(f"{run.checkpoint}: the disk is full")
    assert "the state of step 3 is in last.pt, and the same command resumes" in message
    assert load_checkpoint(run.checkpoint)["step"] == 3
    resumed = train(config)
    unbroken = train(replace(config, checkpoints=tmp_path / "unbroken"))
    assert same(weights(resumed), weights(unbroken))
    assert read_log(resumed) == read_log(unbroken)


class Hungry(Baseline):
    """Runs out of the GPU's memory at case b0, as long as it is told to."""

    hungry = True

    def loss(self, sample: Any, generator: Any) -> Any:
        if sample.case_id == "b0" and self.hungry:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")
        return super().loss(sample, generator)


def test_a_training_without_gpu_memory_saves_and_names_crop_case_and_setting(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "hungry", Hungry)
    config = tiny_config(method="hungry", epochs=2, time="t", checkpoint_seconds=3600.0)
    with pytest.raises(StoppedError) as raised:
        fit(config)
    (run,) = find_runs(config.checkpoints, "tumor_coarse")
    step = load_checkpoint(run.checkpoint)["step"]
    message = str(raised.value)
    assert f"step {step + 1}: the GPU's memory is too small (CUDA out of memory." in message
    assert "voxels, of B/b0; take smaller ones by --max-voxels" in message
    assert f"the state of step {step} is in last.pt" in message
    assert "\n" not in message
    monkeypatch.setattr(Hungry, "hungry", False)
    resumed = train(config)
    unbroken = train(replace(config, checkpoints=tmp_path / "unbroken"))
    assert same(weights(resumed), weights(unbroken))


# workers


@pytest.fixture
def dataset(tiny_config: MakeConfig, tiny_prepared: Any) -> StageDataset:
    config = tiny_config(method="bl")
    cases = [*tiny_prepared["A"], *tiny_prepared["B"]]
    with torch.device("meta"):
        return make_dataset(config, build_method(config, ("A", "B")), cases)


def crops_of(dataset: StageDataset, config: Config) -> list[Any]:
    return list(load_crops(dataset, replace(config, workers=1), Distributed(), 0, 3))


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGKILL, "it was killed, most likely because memory ran out"), (signal.SIGBUS, "shm")],
)
def test_a_worker_that_dies_says_why(
    number: signal.Signals,
    said: str,
    dataset: StageDataset,
    tiny_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(self: StageDataset, index: int) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(StageDataset, "__getitem__", die)
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(StoppedError, match=said):
        crops_of(dataset, tiny_config())
    assert signal.getsignal(signal.SIGCHLD) is before


def test_what_a_worker_cannot_read_arrives_whole_with_its_case(
    dataset: StageDataset, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(self: StageDataset, index: int) -> None:
        raise os_error(errno.ESTALE)

    monkeypatch.setattr(StageDataset, "__getitem__", stale)
    with pytest.raises(OSError, match="place/file") as raised:
        crops_of(dataset, tiny_config())
    assert raised.value.errno == errno.ESTALE
    assert "; it was needed for " in str(describe_error(raised.value))


def test_too_little_shared_memory_is_said_and_does_not_wait_for_ever(
    dataset: StageDataset, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left (28)\nat")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(StoppedError, match="No space left") as raised:
        crops_of(dataset, tiny_config())
    assert SHARED_MEMORY in str(raised.value)


# before anything is written


@pytest.mark.parametrize("name", ["checkpoints", "cache"])
def test_a_file_where_a_folder_belongs_is_refused_before_anything_is_written(
    name: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=rf"--{name} .*file: a file is where a folder belongs"):
        fit(tiny_config(**{name: file / "below"}))
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_name_of_300_characters_is_refused(tmp_path: Path) -> None:
    check_folder("--out", tmp_path / "new" / "newer")
    with pytest.raises(ValueError, match=r"--out .* too long"):
        check_folder("--out", tmp_path / ("x" * 300))


def test_centers_whose_names_make_too_long_a_folder_are_refused_before_they_are_read(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    centers = write_tiny_centers(tmp_path / "data", {"A": 1, "C": 1})
    text = centers.read_text().replace("[centers.A]", f"[centers.{'A' * 240}]")
    centers.write_text(text)
    with pytest.raises(ValueError, match=r"--checkpoints .*the name is too long"):
        fit(tiny_config(centers=centers, cache=tmp_path / "cache"))
    assert os.listdir(tmp_path) == ["data"]


def test_a_full_disk_is_not_the_fault_of_each_case() -> None:
    with pytest.raises(OSError, match="No space left"):
        case_error("A/a0", os_error(errno.ENOSPC))
    assert "A/a0" in str(case_error("A/a0", os_error(errno.EIO)))
