"""On a GPU: its own kernels, and that it computes what a CPU does. All of it needs one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from benchmarks.step_crops import SOURCES, SPACING, make_crops
from engine.checkpointing import NoCheckpoints, build_state
from engine.samples import SampleFeed, tensors_of
from engine.step import TrainingStep
from methods import METHODS, make_config
from methods.base import ONE_PER_CENTER
from models.backbone import ResidualEncoderDecoder
from models.convolution import CHANNELS_LAST, conv3d, is_channels_last
from models.gpu import kernels_run
from models.layers import NormReLU, Upsample
from utils.device import autocast, select_device
from utils.distributed import BACKENDS, Distributed
from utils.stages import STAGES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU = torch.device("cpu")
SHAPE = (16, 24, 32)
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.fixture
def gpu() -> torch.device:
    return select_device("cuda")


def apart(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


def keep_all_channels(method: nn.Module) -> None:
    """No dropout: a GPU draws other numbers for it."""
    for module in method.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def test_the_kernels_are_in_use_here(gpu: torch.device) -> None:
    assert kernels_run(gpu.index)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    ("channels", "sides"),
    [(8, (3, 5, 7)), (24, (1, 1, 1)), (32, (40, 9, 33)), (32, (40, 48, 65)), (24, (40, 48, 65))],
)
def test_norm_and_relu_are_those_of_float64(
    dtype: torch.dtype, channels: int, sides: tuple[int, int, int], gpu: torch.device
) -> None:
    torch.manual_seed(0)
    norm = NormReLU(channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, channels, *sides) * 3 + torch.randn(1, channels, 1, 1, 1) * 20
    x, grad = x.to(dtype), torch.randn(2, channels, *sides).to(dtype)

    exact = x.double().requires_grad_()
    reference = copy.deepcopy(norm).double()
    group_norm = torch.nn.GroupNorm.forward(reference, exact)
    F.relu(group_norm).backward(grad.double())

    there = x.to(gpu, memory_format=CHANNELS_LAST).requires_grad_()
    norm.to(gpu)
    with autocast(gpu, "bf16"):
        out = norm(there)
    out.backward(grad.to(gpu))
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=CHANNELS_LAST)
    assert apart(out, F.relu(group_norm)) < ROUNDING[dtype]
    for found, expected in (
        (there.grad, exact.grad),
        (norm.weight.grad, reference.weight.grad),
        (norm.bias.grad, reference.bias.grad),
    ):
        assert found is not None
        assert expected is not None
        assert apart(found, expected) < 4 * ROUNDING[dtype] or expected.norm() < 1e-6


def test_the_norm_repeats_to_the_last_bit_and_takes_any_order(gpu: torch.device) -> None:
    for sides in ((30, 40, 50), (40, 60, 70)):  # one kernel, and three
        norm = NormReLU(16).to(gpu)
        x = torch.randn(2, 16, *sides, device=gpu).bfloat16()
        with autocast(gpu, "bf16"):
            once = [norm(x) for _ in range(3)]
            last = norm(x.contiguous(memory_format=CHANNELS_LAST))
        for other in (*once[1:], last):
            assert torch.equal(other, once[0])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_seed_makes_a_training_repeat_to_the_last_bit(precision: str, gpu: torch.device) -> None:
    trained = []
    for _ in range(2):
        config = make_config(
            *(STAGES["tumor_fine"], "ours"),
            width=16,
            spacing=SPACING,
            device="cuda",
            precision=precision,
        )
        state = build_state(config, gpu, SOURCES)
        state.method.train()
        feed = SampleFeed(config, state, make_crops((24, 64, 72)), 1)
        for _ in range(5):
            step = TrainingStep(config, state, NoCheckpoints(), 10)  # type: ignore[arg-type]
            state.method.training_step(step.take_from(feed), step)
            step.finish()
            state.step += 1
        trained.append(state.method.state_dict())
    assert trained[0].keys() == trained[1].keys()
    for name, weight in trained[0].items():
        assert torch.equal(weight, trained[1][name]), name


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("channels", [(1, 8), (16, 24)])
def test_a_convolution_stays_channels_last_and_is_float64s(
    kernel: int, stride: int, channels: tuple[int, int], gpu: torch.device
) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, channels[0], 8, 10, 12, requires_grad=True)
    weight = torch.randn(channels[1], channels[0], *[kernel] * 3, requires_grad=True)
    sides, padding = (stride,) * 3, (kernel // 2,) * 3
    expected = F.conv3d(x.double(), weight.double(), None, sides, padding)
    expected.square().sum().backward()
    wanted = [expected, x.grad, weight.grad]
    there = [part.detach().to(gpu).requires_grad_() for part in (x, weight)]
    with autocast(gpu, "bf16"):
        out = conv3d(*there, stride=sides, padding=padding)
    out.float().square().sum().backward()
    assert is_channels_last(out)
    for found, exact in zip((out, *(part.grad for part in there)), wanted, strict=True):
        assert found is not None
        assert exact is not None
        assert apart(found, exact) < 1e-2


def test_upsampling_is_pytorchs(gpu: torch.device) -> None:
    x = torch.randn(2, 16, 3, 5, 6, device=gpu).to(memory_format=CHANNELS_LAST)
    expected = F.interpolate(x, scale_factor=2, mode="trilinear")
    found = Upsample("trilinear")(x)
    assert is_channels_last(found)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("precision", "outputs", "gradients"), [("fp32", 1e-4, 1e-3), ("bf16", 0.06, 0.5)]
)
def test_the_network_is_the_cpus(
    precision: str, outputs: float, gradients: float, gpu: torch.device
) -> None:
    """Relative to the CPU's float32; `gradients`: all of them as one vector.

    On a CPU, bf16 is 0.04 and 0.33 from float32 here: an untrained network, few voxels.
    """
    torch.manual_seed(2)
    network = ResidualEncoderDecoder(width=16, dropout=0.0).train()
    image = torch.rand(2, 1, *SHAPE)
    found = {}
    for device, name in ((CPU, "fp32"), (gpu, precision)):
        own = copy.deepcopy(network).to(device)
        with autocast(device, name):
            out = own(image.to(device))
        trained = [*own.parameters()]
        heads = [head for head in vars(out).values() if head is not None]
        assert len(heads) == 4
        torch.stack([head.float().square().mean() for head in heads]).sum().backward()
        grads = torch.cat([p.grad.flatten().cpu() for p in trained if p.grad is not None])
        found[device.type] = [*heads, grads]
    for there, here, most in zip(
        found["cuda"], found["cpu"], [outputs] * 4 + [gradients], strict=True
    ):
        assert apart(there, here) < most


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("precision", "most"), [("fp32", 2e-3), ("bf16", 0.05)])
def test_a_methods_losses_are_the_cpus(
    method: str, precision: str, most: float, gpu: torch.device
) -> None:
    """Every term of a first step: relative to it, or to the sum where it is small beside that."""
    found = {}
    for device, name in ((CPU, "fp32"), (gpu, precision)):
        config = make_config(
            *(STAGES["tumor_fine"], method),
            width=16,
            spacing=SPACING,
            device=device.type,
            precision=name,
        )
        state = build_state(config, device, SOURCES)
        keep_all_channels(state.method)
        state.method.train()
        group = len(SOURCES) if state.method.sampling == ONE_PER_CENTER else 1
        step = TrainingStep(config, state, NoCheckpoints(), 10)  # type: ignore[arg-type]
        samples = step.take(make_crops(SHAPE), group)
        state.method.training_step(samples, step)
        found[device.type] = step.finish()
    here, there = found["cpu"], found["cuda"]
    assert here.keys() == there.keys()
    for name, value in here.items():
        if name != "grad_norm":
            scale = max(abs(value), 0.1 * abs(here["total"]))
            assert abs(there[name] - value) <= most * scale, (name, value, there[name])


def test_samples_that_are_made_ahead_are_those_made_at_once(gpu: torch.device) -> None:
    config = make_config(
        STAGES["tumor_fine"], "ours", width=8, spacing=SPACING, device="cuda", precision="bf16"
    )
    state = build_state(config, gpu, SOURCES)
    at_once, ahead = (SampleFeed(config, state, make_crops(SHAPE), 2) for _ in range(2))
    busy = torch.rand(4096, 4096, device=gpu)
    for _ in range(4):
        for _ in range(20):
            busy = busy @ busy / busy.norm()  # what `take` waits behind
        ours, theirs = at_once.take(), ahead.take()
        ahead.begin()
        assert ours.error is None is theirs.error
        assert [g.get_state().tolist() for g in ours.generators] == [
            g.get_state().tolist() for g in theirs.generators
        ]
        for one, other in zip(ours.samples, theirs.samples, strict=True):
            assert len(tensors_of(one)) > 3
            for a, b in zip(tensors_of(one), tensors_of(other), strict=True):
                assert torch.equal(a, b)


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[Callable[[], Distributed]]:
    """This process alone, joined by the backends of a GPU, as one that believes to be one of two:
    sums are then halves. NCCL takes a GPU once, so two processes need two GPUs.
    """
    distributed.init_process_group(
        BACKENDS["cuda"], init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        yield lambda: Distributed(0, 2)
    finally:
        distributed.destroy_process_group()


def test_nccl_carries_gradients_buffers_and_values_and_gloo_the_hosts_numbers(
    group_of_one: Callable[[], Distributed], gpu: torch.device
) -> None:
    processes = group_of_one()
    network = ResidualEncoderDecoder(width=8, dropout=0.0).to(gpu)
    with autocast(gpu, "bf16"):
        network(torch.rand(1, 1, *SHAPE, device=gpu)).logits.float().square().mean().backward()
    trained = [p for p in network.parameters() if p.grad is not None]
    before = [p.grad.clone() for p in trained if p.grad is not None]
    processes.average_gradients(network.parameters())
    for parameter, gradient in zip(trained, before, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient / 2)

    buffer, count = torch.full((3,), 4.0, device=gpu), torch.tensor(5, device=gpu)
    processes.average_buffers([buffer, count])
    assert buffer.tolist() == [2.0] * 3
    assert count.item() == 5
    assert processes.share(torch.tensor([6.0], device=gpu)).item() == 3
    assert processes.largest(7) == 7
    assert processes.from_first("name") == "name"
    processes.wait()


def test_a_step_sends_its_gradients_by_nccl_while_it_makes_them(
    group_of_one: Callable[[], Distributed], gpu: torch.device
) -> None:
    """The same gradients as without, halved; the sum's two halves travel in the backward pass."""
    norms = []
    for processes in (Distributed(), group_of_one()):
        config = make_config(
            *(STAGES["tumor_fine"], "bl"),
            width=8,
            spacing=SPACING,
            device="cuda",
            precision="fp32",
        )
        state = build_state(config, gpu, SOURCES)
        keep_all_channels(state.method)
        save = NoCheckpoints()
        save.processes = processes
        step = TrainingStep(config, state, save, 10)  # type: ignore[arg-type]
        state.method.train()
        state.method.training_step(step.take(make_crops(SHAPE), 1), step)
        assert step._updates == 1
        norms.append(torch.stack(step._norms).norm().item())
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-3)
