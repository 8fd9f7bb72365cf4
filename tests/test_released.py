from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbone import Outputs, ResidualEncoderDecoder
from models.released import load_released, released_name

State = dict[str, Tensor]
WIDTH = 8
HEAD_KEYS = {
    "distance": ("dt_cls.0.",),
    "projection": ("proj.0.",),
    "slices": ("gn.", "fc1.", "fc2."),
}


class Reference:
    """The network written a second time, straight from its description, on the released names."""

    def __init__(self, state: State) -> None:
        self.state = state

    def norm(self, x: Tensor, name: str) -> Tensor:
        scale, shift = self.state[name + ".weight"], self.state[name + ".bias"]
        return F.relu(F.group_norm(x, 8, scale, shift))

    def conv(self, x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = self.state[name + ".weight"]
        filters = weight.flatten(1)
        filters = filters - filters.mean(1, keepdim=True)
        filters = filters / torch.sqrt(filters.var(1, keepdim=True) + 1e-12)
        padding = dilation if weight.shape[-1] == 3 else 0
        return F.conv3d(x, filters.view_as(weight), None, stride, padding, dilation)

    def block(self, x: Tensor, name: str, dilation: int = 1) -> Tensor:
        shortcut = x
        if f"{name}.downsample.2.weight" in self.state:
            shortcut = self.conv(self.norm(x, f"{name}.downsample.0"), f"{name}.downsample.2")
        for i in ("1", "2"):
            x = self.conv(self.norm(x, f"{name}.gn{i}"), f"{name}.conv{i}", dilation=dilation)
        return x + shortcut

    def down(self, x: Tensor, name: str) -> Tensor:
        return self.conv(self.norm(x, f"{name}.0"), f"{name}.2", stride=2)

    def head(self, x: Tensor, name: str) -> Tensor:
        return F.conv3d(x, self.state[name + ".0.weight"], self.state[name + ".0.bias"])

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[name + ".weight"], self.state[name + ".bias"])

    def __call__(self, image: Tensor) -> Outputs:
        skips = [self.block(self.conv(image, "conv_4_32.0"), "layer0.0")]
        x = skips[0]
        for i, name in enumerate(("conv_32_64", "conv_64_128", "conv_128_256"), start=1):
            x = self.block(self.block(self.down(x, name), f"layer{i}.0"), f"layer{i}.1")
            skips.append(x)
        deep = self.block(self.block(x, "layer4.0", dilation=2), "layer4.1", dilation=2)
        x = self.conv(self.norm(deep, "fusionConv.0"), "fusionConv.3")
        for scale, skip in (("x4", skips[2]), ("x2", skips[1]), ("x1", skips[0])):
            for axis in (2, 3, 4):
                x = x.repeat_interleave(2, dim=axis)
            x = self.block(x + skip, f"seg_{scale}.0")
        slices = self.norm(deep, "gn").repeat_interleave(8, dim=2).mean((3, 4)).transpose(1, 2)
        return Outputs(
            logits=self.head(x, "seg_cls"),
            sdm=torch.tanh(self.head(x, "dt_cls")),
            slice_logits=self.linear(F.relu(self.linear(slices, "fc1")), "fc2")[:, :, 0],
            features=F.relu(self.head(deep, "proj")),
        )


def released_state(width: int = WIDTH) -> State:
    """A random state dict with every key of the released scripts, written out here by hand."""
    generator = torch.Generator().manual_seed(7)
    state: State = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        state[name + ".weight"] = torch.randn(shape, generator=generator) * 0.1
        if bias:
            state[name + ".bias"] = torch.randn(shape[0], generator=generator) * 0.1

    def conv(name: str, out: int, into: int, kernel: int = 3) -> None:
        add(name, out, into, kernel, kernel, kernel, bias=False)

    def norm(name: str, channels: int) -> None:
        add(name, channels)
        state[name + ".weight"] += 1

    def block(name: str, out: int, into: int) -> None:
        for i, channels in (("1", into), ("2", out)):
            norm(f"{name}.gn{i}", channels)
            conv(f"{name}.conv{i}", out, channels)
        if out != into:
            norm(f"{name}.downsample.0", into)
            conv(f"{name}.downsample.2", out, into, kernel=1)

    w = width
    conv("conv_4_32.0", w, 1)
    block("layer0.0", w, w)
    for i, (name, into) in enumerate(
        (("conv_32_64", w), ("conv_64_128", 2 * w), ("conv_128_256", 4 * w)), start=1
    ):
        norm(f"{name}.0", into)
        conv(f"{name}.2", 2 * into, into)
        block(f"layer{i}.0", 2 * into, 2 * into)
        block(f"layer{i}.1", 2 * into, 2 * into)
    block("layer4.0", 8 * w, 8 * w)
    block("layer4.1", 8 * w, 8 * w)
    norm("fusionConv.0", 8 * w)
    conv("fusionConv.3", 4 * w, 8 * w)
    block("seg_x4.0", 2 * w, 4 * w)
    block("seg_x2.0", w, 2 * w)
    block("seg_x1.0", w, w)
    for name, out, into in (("seg_cls", 1, w), ("dt_cls", 1, w), ("proj", w, 8 * w)):
        add(f"{name}.0", out, into, 1, 1, 1)
    norm("gn", 8 * w)
    add("fc1", 4 * w, 8 * w)
    add("fc2", 1, 4 * w)
    # A head on unnormalized features: keep tanh away from its flat ends.
    state["dt_cls.0.weight"] *= 0.1
    return state


def without(state: State, head: str) -> State:
    return {k: v for k, v in state.items() if not k.startswith(HEAD_KEYS[head])}


def narrow(**heads: bool) -> ResidualEncoderDecoder:
    return ResidualEncoderDecoder(width=WIDTH, upsample="nearest", **heads).eval()


def test_an_imported_network_gives_the_released_networks_outputs_on_every_head() -> None:
    state, network = released_state(), narrow()
    assert load_released(state, network) == ()
    image = torch.rand(2, 1, 16, 24, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, theirs = network(image), Reference(state)(image)
    heads = {name: value for name, value in vars(theirs).items() if value is not None}
    assert len(heads) >= 4
    for name, value in heads.items():
        assert value.std() > 1e-3, f"{name} says nothing"
        error = (vars(ours)[name] - value).abs().max() / value.abs().max()
        assert error < 1e-4, name  # float32, another order of sums


def test_the_released_names_are_exactly_those_of_the_full_network() -> None:
    assert {released_name(name) for name in narrow().state_dict()} == set(released_state())


def test_the_papers_width_has_the_shapes_that_the_released_file_has() -> None:
    with torch.device("meta"):
        network = ResidualEncoderDecoder()
    ours = {released_name(name): tuple(p.shape) for name, p in network.state_dict().items()}
    assert ours["fc1.weight"] == (128, 256)
    assert ours["fusionConv.3.weight"] == (128, 256, 3, 3, 3)
    assert ours["seg_x4.0.downsample.2.weight"] == (64, 128, 1, 1, 1)
    assert ours["proj.0.weight"] == (32, 256, 1, 1, 1)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_file_loads_with_prefix_or_not_and_nested_or_not(
    tmp_path: Path, prefix: str, wrapper: str | None
) -> None:
    state, network = released_state(), narrow()
    saved: dict[str, object] = {prefix + key: value for key, value in state.items()}
    if wrapper is not None:
        saved = {"epoch": 3, "optimizer": {"state": {}, "lr": 0.1}, wrapper: saved}
    torch.save(saved, tmp_path / "released.pth")
    assert load_released(tmp_path / "released.pth", network) == ()
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[released_name(name)])


@pytest.mark.parametrize("head", HEAD_KEYS)
def test_a_head_missing_from_the_file_is_named_and_keeps_its_weights(head: str) -> None:
    network = narrow()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert load_released(without(released_state(), head), network) == (head,)
    kept = {released_name(k) for k, v in network.state_dict().items() if torch.equal(v, before[k])}
    assert kept == {k for k in released_state() if k.startswith(HEAD_KEYS[head])}


@pytest.mark.parametrize("head", HEAD_KEYS)
def test_a_head_that_neither_has_is_named_as_absent(head: str) -> None:
    assert load_released(without(released_state(), head), narrow(**{head: False})) == (head,)


@pytest.mark.parametrize("head", HEAD_KEYS)
def test_a_head_that_only_the_file_has_is_refused_with_the_keyword_that_adds_it(head: str) -> None:
    with pytest.raises(ValueError, match=rf"{HEAD_KEYS[head][0]}.*{head}=True"):
        load_released(released_state(), narrow(**{head: False}))


@pytest.mark.parametrize("key", ["layer3.1.gn2.bias", "fc2.bias", "seg_cls.0.weight"])
def test_a_missing_key_is_named_and_the_network_left_alone(key: str) -> None:
    network, state = narrow(), released_state()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    del state[key]
    with pytest.raises(ValueError, match=f"missing key {key}"):
        load_released(state, network)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_an_unexpected_key_is_named() -> None:
    state = released_state() | {"layer5.0.gn1.weight": torch.ones(8)}
    with pytest.raises(ValueError, match=r"unexpected key layer5\.0\.gn1\.weight"):
        load_released(state, narrow())


def test_a_wrong_shape_names_the_key_and_both_shapes() -> None:
    state = released_state() | {"fc1.weight": torch.ones(3, 64)}
    with pytest.raises(ValueError, match=r"fc1\.weight has shape \(3, 64\).*needs \(32, 64\)"):
        load_released(state, narrow())


def test_a_file_of_another_width_names_the_first_key_that_differs() -> None:
    with pytest.raises(ValueError, match=r"conv_4_32\.0\.weight has shape \(16, 1, 3, 3, 3\)"):
        load_released(released_state(width=16), narrow())


def test_a_number_that_is_not_finite_names_its_key() -> None:
    state = released_state()
    state["layer2.0.conv1.weight"][0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.weight holds numbers that are not"):
        load_released(state, narrow())


def test_a_value_that_is_no_tensor_names_its_key() -> None:
    state: dict[str, object] = dict(released_state())
    state["gn.bias"] = [1.0]
    with pytest.raises(ValueError, match=r"gn\.bias is a list"):
        load_released(state, narrow())


@pytest.mark.parametrize("content", [{"epoch": 3, "weights": {"a": torch.ones(1)}}, [1, 2], "text"])
def test_a_file_without_the_network_names_the_key_that_it_lacks(
    tmp_path: Path, content: object
) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: no conv_4_32\.0\.weight"):
        load_released(tmp_path / "other.pth", narrow())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: float, legacy: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save(released_state(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"cut\.pth: not readable.*truncated"):
        load_released(path, narrow())


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save(narrow(), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"module\.pth: not readable.*only the state dict"):
        load_released(tmp_path / "module.pth", narrow())


def test_a_file_that_is_not_there_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_released(tmp_path / "nowhere.pth", narrow())
