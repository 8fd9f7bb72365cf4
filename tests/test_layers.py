import sys
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import gpu
from models.convolution import CHANNELS_LAST, is_channels_last
from models.layers import (
    ChannelsLastNormReLU,
    HalfNormReLU,
    NormReLU,
    ResidualBlock,
    SameConv3d,
    Upsample,
    WSConv3d,
    keep_standardized,
    standardize_weight,
    voxel_head,
)


def test_a_standardized_filter_of_four_numbers_is_known_by_hand() -> None:
    # Mean 4, unbiased variance (9 + 1 + 1 + 9) / 3 = 20 / 3.
    weight = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 1, 2, 2)
    expected = torch.tensor([-3.0, -1.0, 1.0, 3.0]) * (3 / 20) ** 0.5
    torch.testing.assert_close(standardize_weight(weight).flatten(), expected)


def test_each_filter_is_standardized_by_itself_with_the_unbiased_variance() -> None:
    weight = torch.randn(6, 4, 3, 3, 3, dtype=torch.float64) * torch.arange(1, 7).view(
        6, 1, 1, 1, 1
    )
    normed = standardize_weight(weight + 5).double()
    flat = normed.flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(6).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(flat.var(1, correction=1), torch.ones(6).double(), atol=1e-5, rtol=0)


def test_a_constant_filter_is_zero_and_has_a_finite_gradient() -> None:
    weight = torch.full((2, 1, 3, 3, 3), 0.5, requires_grad=True)
    normed = standardize_weight(weight)
    normed.sum().backward()
    assert normed.abs().max() == 0
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()


def test_the_gradient_of_the_standardization_is_that_of_its_formula() -> None:
    weight = torch.randn(3, 2, 3, 3, 3, requires_grad=True)
    cotangent = torch.randn(3, 2, 3, 3, 3)
    var, mean = torch.var_mean(weight, dim=(1, 2, 3, 4), keepdim=True, correction=1)
    formula = (weight - mean) / torch.sqrt(var + 1e-12)
    (expected,) = torch.autograd.grad(formula, weight, cotangent)
    (found,) = torch.autograd.grad(standardize_weight(weight), weight, cotangent)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_weights_of_half_precision_are_standardized_in_float32() -> None:
    assert standardize_weight(torch.randn(2, 2, 3, 3, 3).half()).dtype == torch.float32


def test_a_ws_convolution_of_an_impulse_returns_the_mirrored_standardized_filter() -> None:
    conv = WSConv3d(1, 1)
    image = torch.zeros(1, 1, 5, 7, 9)
    image[0, 0, 2, 3, 4] = 1
    found = conv(image)[0, 0]
    expected = torch.zeros(5, 7, 9)
    expected[1:4, 2:5, 3:6] = standardize_weight(conv.weight)[0, 0].flip(0, 1, 2)
    torch.testing.assert_close(found, expected)


def test_kept_standardized_weights_give_the_same_bits_until_weights_change() -> None:
    network = nn.Sequential(WSConv3d(2, 3), WSConv3d(3, 2, kernel_size=1))
    names = list(network.state_dict())
    image = torch.randn(1, 2, 3, 4, 5)
    expected = network(image)
    keep_standardized(network)
    with (
        torch.no_grad(),
        mock.patch("models.layers.standardize_weight", side_effect=AssertionError),
    ):
        torch.testing.assert_close(network(image), expected, rtol=0, atol=0)
    assert list(network.state_dict()) == names  # a checkpoint's
    assert not network.training
    other = {name: torch.randn_like(value) for name, value in network.state_dict().items()}
    network.load_state_dict(other)
    fresh = nn.Sequential(WSConv3d(2, 3), WSConv3d(3, 2, kernel_size=1))
    fresh.load_state_dict(other)
    torch.testing.assert_close(network(image), fresh(image), rtol=0, atol=0)
    keep_standardized(network)
    network.train()
    network(image).sum().backward()
    grads = [weight.grad for weight in network.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_dilation_two_reaches_two_voxels_and_skips_the_ones_between() -> None:
    image = torch.zeros(1, 1, 7, 8, 9)
    image[0, 0, 3, 3, 4] = 1
    reached = WSConv3d(1, 1, dilation=2)(image)[0, 0].nonzero()
    offsets = reached - torch.tensor([3, 3, 4])
    assert len(offsets) == 27
    assert set(offsets.flatten().tolist()) == {-2, 0, 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("size", "stride", "dilation"),
    [
        ((6, 8, 10), 1, 1),
        ((2, 6, 8), 1, 1),
        ((6, 8, 10), 2, 1),
        ((3, 5, 7), 2, 1),
        ((2, 3, 4), 1, 2),
    ],
)
def test_a_ws_convolution_and_its_gradients_are_those_of_plain_float64(
    dtype: torch.dtype, size: tuple[int, int, int], stride: int, dilation: int
) -> None:
    # Two slices and odd sizes are among them: there a CPU's own bf16 gradient holds garbage.
    torch.manual_seed(0)
    conv = WSConv3d(8, 16, stride=stride, dilation=dilation)
    x = torch.randn(2, 8, *size, requires_grad=True)
    y = conv(x.to(dtype))
    cotangent = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, conv.weight], cotangent)

    x64 = x.detach().double().requires_grad_()
    weight = conv.weight.detach().double().requires_grad_()
    var, mean = torch.var_mean(weight, dim=(1, 2, 3, 4), keepdim=True)
    y64 = F.conv3d(x64, (weight - mean) / var.sqrt(), None, stride, dilation, dilation)
    expected = torch.autograd.grad(y64, [x64, weight], cotangent.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # bf16 keeps 8 bits
    for ours, theirs in zip((y, *found), (y64, *expected), strict=True):
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


def test_norm_relu_is_group_norm_of_eight_groups_then_relu() -> None:
    x = torch.randn(2, 16, 3, 4, 5)
    norm = NormReLU(16)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    groups = x.view(2, 8, -1)
    normed = (groups - groups.mean(2, keepdim=True)) / (
        groups.var(2, keepdim=True, correction=0) + 1e-5
    ).sqrt()
    per_channel = (1, 16, 1, 1, 1)
    expected = normed.view_as(x) * norm.weight.view(per_channel) + norm.bias.view(per_channel)
    torch.testing.assert_close(norm(x), expected.clamp(min=0), atol=1e-5, rtol=1e-5)


def test_a_residual_block_with_silent_convolutions_is_the_identity() -> None:
    block = ResidualBlock(8, 8)
    torch.nn.init.zeros_(block.norm2.weight)  # GN gives 0, ReLU 0, the second convolution 0
    x = torch.randn(1, 8, 3, 4, 5)
    torch.testing.assert_close(block(x), x, atol=0, rtol=0)


def test_a_residual_block_leaves_its_input_unchanged() -> None:
    x = torch.randn(1, 8, 3, 4, 5)
    before = x.clone()
    ResidualBlock(8, 16)(x)
    assert torch.equal(x, before)


def test_only_a_change_of_channels_gives_a_block_a_shortcut_with_weights() -> None:
    same, other = ResidualBlock(8, 8), ResidualBlock(16, 8)
    assert not any(name.startswith("shortcut") for name in same.state_dict())
    assert other.shortcut.state_dict()["1.weight"].shape == (8, 16, 1, 1, 1)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 2, 3), (5, 4, 3)])
def test_trilinear_doubling_and_its_gradient_equal_interpolate(size: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(2, 3, *(2 * n for n in size), dtype=torch.float64)
    ours = Upsample("trilinear")(x)
    theirs = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(ours, x, cotangent), torch.autograd.grad(theirs, x, cotangent)
    )


def test_trilinear_doubling_of_two_slices_is_known_by_hand() -> None:
    x = torch.tensor([0.0, 4.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 3, 1)
    doubled = Upsample("trilinear")(x)
    assert doubled.shape == (1, 1, 4, 6, 2)
    assert doubled[0, 0, :, 2, 1].tolist() == [0.0, 1.0, 3.0, 4.0]


def test_nearest_doubling_repeats_each_voxel() -> None:
    x = torch.arange(6.0).view(1, 1, 1, 2, 3)
    doubled = Upsample("nearest")(x)
    for axis in (2, 3, 4):
        x = x.repeat_interleave(2, dim=axis)
    assert torch.equal(doubled, x)


def test_an_unknown_upsampling_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'cubic'; choose from trilinear, nearest"):
        Upsample("cubic")


@pytest.mark.parametrize(("kernel_size", "bias"), [(1, True), (1, False), (3, True)])
def test_a_same_convolution_is_pytorchs_with_padding(kernel_size: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = SameConv3d(4, 3, kernel_size, bias=bias)
    x = torch.randn(2, 4, 3, 5, 6)
    expected = F.conv3d(x, conv.weight, conv.bias, padding="same")
    torch.testing.assert_close(conv(x), expected)
    assert (conv.bias is not None) == bias


@pytest.mark.parametrize("channels", [8, 32])
def test_a_voxel_head_begins_with_outputs_of_unit_size_on_features_of_the_decoder(
    channels: int,
) -> None:
    torch.manual_seed(0)
    feature = torch.randn(1, channels, 8, 8, 8) * (27 * channels / 2) ** 0.5
    heads = [voxel_head(channels)(feature).detach() for _ in range(200)]
    assert float(torch.cat(heads).square().mean()) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_norm_of_16_bits_is_the_float32_norm_of_the_same_input_rounded_once(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(3)
    x = (torch.randn(2, 16, 3, 4, 5) * 3 + 50).to(dtype)  # a mean that 8 bits could not keep
    norm = NormReLU(16)
    nn.init.normal_(norm.weight, 1, 0.3)
    nn.init.normal_(norm.bias, 0, 0.3)
    exact = x.float().requires_grad_()
    expected = norm(exact)
    upstream = torch.randn_like(expected).to(dtype)
    expected.backward(upstream.float())
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    assert exact.grad is not None
    expected_grads = [exact.grad, norm.weight.grad.clone(), norm.bias.grad.clone()]
    norm.zero_grad()
    half = x.clone().requires_grad_()
    found = HalfNormReLU.apply(half, norm.weight, norm.bias, norm.num_groups, norm.eps)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype), rtol=0, atol=0)
    found.backward(upstream)
    assert half.grad is not None
    assert half.grad.dtype == dtype
    assert half.grad.abs().max() > 0
    torch.testing.assert_close(half.grad, expected_grads[0].to(dtype), rtol=1e-2, atol=1e-3)
    for parameter, expected_grad in zip((norm.weight, norm.bias), expected_grads[1:], strict=True):
        torch.testing.assert_close(parameter.grad, expected_grad, rtol=1e-5, atol=1e-5)


def test_the_norm_of_16_bits_keeps_two_bytes_of_its_input_and_what_the_convolution_keeps() -> None:
    x = torch.randn(1, 8, 4, 8, 8).bfloat16().requires_grad_()
    norm = NormReLU(8)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = HalfNormReLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
        F.conv3d(out, torch.randn(8, 8, 1, 1, 1).bfloat16().requires_grad_())
    large = [size for size in kept.values() if size >= x.numel()]
    assert large == [2 * x.numel()] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels", [8, 32])
def test_the_channels_last_norm_and_its_gradients_are_those_of_group_norm_and_relu(
    dtype: torch.dtype, channels: int
) -> None:
    torch.manual_seed(4)
    norm = NormReLU(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (torch.randn(2, channels, 3, 4, 5) * 3 + 20).to(dtype, memory_format=CHANNELS_LAST)
    x.requires_grad_()
    if dtype == torch.float64:
        norm.double()
    found = norm(x)
    assert found.grad_fn.name().startswith(ChannelsLastNormReLU.__name__)
    assert found.dtype == dtype
    assert is_channels_last(found)
    cotangent = torch.randn_like(found)
    ours = torch.autograd.grad(found, [x, norm.weight, norm.bias], cotangent)
    exact = [part.detach().double().requires_grad_() for part in (x, norm.weight, norm.bias)]
    expected = F.group_norm(exact[0].contiguous(), 8, exact[1], exact[2], norm.eps).relu()
    theirs = torch.autograd.grad(expected, exact, cotangent.double())
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float64: 1e-12}[dtype]
    for one, other in zip((found, *ours), (expected, *theirs), strict=True):
        assert (one.double() - other).norm() <= tolerance * other.norm()


def test_without_triton_a_gpus_norms_are_pytorchs_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "models.gpu_norm", None)  # as if importing it failed
    assert not gpu.kernels_run.__wrapped__(0)
    assert "the network's norms are PyTorch's" in caplog.text


def test_only_16_bits_on_a_gpu_run_channels_last() -> None:
    x = torch.zeros(1, 8, 2, 2, 2)
    assert not gpu.runs_channels_last(x)
    assert not gpu.runs_channels_last(x.bfloat16())
