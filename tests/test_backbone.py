import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import convolution
from models.backbone import Outputs, ResidualEncoderDecoder
from models.convolution import is_channels_last
from models.layers import WSConv3d

SIZE = (16, 24, 32)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(3))


def narrow(**settings: bool | str | float) -> ResidualEncoderDecoder:
    torch.manual_seed(1)
    return ResidualEncoderDecoder(width=8, **settings)  # type: ignore[arg-type]


def heads_of(outputs: Outputs) -> dict[str, Tensor]:
    """What the heads that are there return, by name; this backbone looks at no domain."""
    assert outputs.domain_logits is None
    return {name: value for name, value in vars(outputs).items() if value is not None}


def scalar(outputs: Outputs) -> Tensor:
    """A loss that every output enters with an uneven weight."""
    total = torch.zeros(())
    for value in heads_of(outputs).values():
        weight = torch.linspace(0.5, 1.5, value.numel()).view_as(value)
        total = total + (value.float() * weight).mean()
    return total


@pytest.mark.parametrize(
    ("heads", "parameters"),
    [
        ({"distance": False, "slices": False, "projection": False}, 18_957_825),
        ({"distance": False, "slices": False}, 18_966_049),
        ({"slices": False}, 18_966_082),
        ({}, 18_999_619),
    ],
)
def test_the_papers_width_has_the_papers_number_of_parameters(
    heads: dict[str, bool], parameters: int
) -> None:
    with torch.device("meta"):
        network = ResidualEncoderDecoder(**heads)  # type: ignore[arg-type]
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert not list(network.buffers())


def test_outputs_have_the_stated_shapes_and_ranges(image: Tensor) -> None:
    outputs = narrow()(image)
    assert outputs.logits.shape == (2, 1, *SIZE)
    assert outputs.sdm.shape == (2, 1, *SIZE)
    assert outputs.slice_logits.shape == (2, 16)
    assert outputs.features.shape == (2, 8, 2, 3, 4)
    assert outputs.sdm.abs().max() <= 1
    assert outputs.features.min() >= 0


def test_a_new_networks_distance_map_is_not_saturated(image: Tensor) -> None:
    with torch.no_grad():
        sdm = narrow()(image).sdm
    assert (sdm.abs() < 0.99).float().mean() > 0.9


def test_heads_that_are_off_are_none_and_leave_the_segmentation_as_it_is(image: Tensor) -> None:
    full = narrow().eval()
    bare = narrow(distance=False, slices=False, projection=False).eval()
    bare.load_state_dict({k: v for k, v in full.state_dict().items() if k in bare.state_dict()})
    outputs = bare(image)
    assert (outputs.sdm, outputs.slice_logits, outputs.features) == (None, None, None)
    torch.testing.assert_close(outputs.logits, full(image).logits)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_gradient_reaches_every_parameter(image: Tensor, autocast: bool) -> None:
    network = narrow()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = scalar(network(image))
    loss.backward()
    without = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_with_float32_within_a_tenth(
    image: Tensor, dtype: torch.dtype
) -> None:
    # Thirty rounded layers of 8 bits each: about 3 percent in bf16; a wrong cast gives far more.
    network, image = narrow().eval(), image[:1, :, :8, :16, :16]
    with torch.no_grad():
        exact = network(image)
        with torch.autocast("cpu", dtype):
            rounded = network(image)
    for name, value in heads_of(exact).items():
        error = (heads_of(rounded)[name].float() - value).norm() / value.norm()
        assert error < 0.1, name


def test_a_bf16_gradient_points_where_the_float32_one_does(image: Tensor) -> None:
    mask = (image > 0.5).float()

    def gradient(autocast: bool) -> Tensor:
        network = narrow(dropout=0.0, distance=False, slices=False, projection=False)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = network(image).logits
        loss = F.binary_cross_entropy_with_logits(logits.float(), mask)
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))]
        )

    assert torch.cosine_similarity(gradient(True), gradient(False), dim=0) > 0.99


def test_every_block_of_eight_slices_shares_its_slice_logit(image: Tensor) -> None:
    slice_logits = narrow()(image).slice_logits.view(2, 2, 8)
    assert torch.equal(slice_logits, slice_logits[:, :, :1].expand(2, 2, 8))
    assert not torch.allclose(slice_logits[:, 0], slice_logits[:, 1], rtol=1e-3)


def test_dropout_acts_in_training_only(image: Tensor) -> None:
    network = narrow(dropout=0.5)
    first, second = network(image).logits, network(image).logits
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(network(image).logits, network(image).logits)


def test_dropout_drops_whole_channels_of_the_bottleneck_and_no_other(image: Tensor) -> None:
    network = narrow(dropout=0.5)
    seen: list[Tensor] = []
    network.bottleneck[1].register_forward_hook(lambda _, __, kept: seen.append(kept))
    outputs = [network(image) for _ in range(2)]
    assert torch.equal(outputs[0].features, outputs[1].features)  # taken before the dropout
    dropped = (seen[0] == 0).flatten(2).all(2)
    assert 0.3 < dropped.float().mean() < 0.7


def test_one_sample_of_a_batch_does_not_touch_the_other(image: Tensor) -> None:
    network = narrow().eval()
    together, alone = network(image), network(image[1:])
    for name, value in heads_of(alone).items():
        torch.testing.assert_close(heads_of(together)[name][1:], value, atol=1e-4, rtol=1e-4)


def test_the_encoder_halves_three_times_and_stage_four_keeps_the_stride(image: Tensor) -> None:
    network, shapes = narrow(), {}
    for name in ("stage0", "stage1", "stage2", "stage3", "stage4", "bottleneck", "decoder3"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, y, name=name: shapes.update({name: tuple(y.shape[1:])})
        )
    network(image)
    assert shapes == {
        "stage0": (8, 16, 24, 32),
        "stage1": (16, 8, 12, 16),
        "stage2": (32, 4, 6, 8),
        "stage3": (64, 2, 3, 4),
        "stage4": (64, 2, 3, 4),
        "bottleneck": (32, 2, 3, 4),
        "decoder3": (16, 4, 6, 8),
    }
    dilations = {n[:6]: m.dilation for n, m in network.named_modules() if isinstance(m, WSConv3d)}
    assert [name for name, d in dilations.items() if d == (2, 2, 2)] == ["stage4"]


def test_upsampling_is_a_setting_that_changes_the_result_and_no_weight(image: Tensor) -> None:
    trilinear, nearest = narrow().eval(), narrow(upsample="nearest").eval()
    nearest.load_state_dict(trilinear.state_dict())
    assert not torch.allclose(trilinear(image).logits, nearest(image).logits, atol=1e-2)


def test_the_same_seed_gives_the_same_network(image: Tensor) -> None:
    assert torch.equal(narrow().eval()(image).logits, narrow().eval()(image).logits)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 16, 20, 24), r"\(16, 20, 24\); pad or crop each to a multiple of 8"),
        ((1, 1, 0, 8, 8), "multiple of 8"),
        ((1, 2, 8, 8, 8), "one channel"),
        ((1, 8, 8, 8), r"give \(batch, 1, z, y, x\)"),
    ],
)
def test_an_image_of_a_wrong_shape_is_refused_with_what_to_do(
    shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        narrow()(torch.zeros(shape))


@pytest.mark.parametrize("width", [0, -8, 4, 12])
def test_a_width_that_is_no_multiple_of_eight_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        ResidualEncoderDecoder(width=width)


def test_an_unknown_upsampling_is_refused() -> None:
    with pytest.raises(ValueError, match="choose from trilinear, nearest"):
        ResidualEncoderDecoder(width=8, upsample="linear")


def test_a_channels_last_network_is_the_plain_one_within_1e_5_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(2)
    network = ResidualEncoderDecoder(width=32).eval()
    image = torch.rand(1, 1, 16, 16, 16)

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs = network(image)
        loss = outputs.logits.square().mean() + outputs.sdm.square().mean()
        parts = [network.stem.weight, network.decoder1.norm1.weight, network.decoder2.conv1.weight]
        return outputs.logits.detach(), torch.autograd.grad(loss, parts)

    seen: list[bool] = []
    handle = network.stage0.register_forward_hook(lambda _, __, y: seen.append(is_channels_last(y)))
    logits, gradients = run()
    handle.remove()
    assert seen == [True]
    monkeypatch.setattr(convolution, "LAST_CHANNELS", range(0))
    expected, expected_gradients = run()
    assert (logits - expected).norm() <= 1e-5 * expected.norm()
    for ours, plain in zip(gradients, expected_gradients, strict=True):
        assert (ours - plain).norm() <= 1e-4 * plain.norm()
