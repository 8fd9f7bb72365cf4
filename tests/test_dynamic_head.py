"""The dynamic head: against grouped convolutions, sizes, samples apart, gradients, cost."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbone import ResidualEncoderDecoder
from models.dynamic_head import DynamicHead, DynamicHeadNetwork, dynamic_conv
from tests.conftest import same

SOURCES, CHANNELS, CONTENT, BATCH = 2, 8, 16, 3


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_network(sources: int = 2) -> DynamicHeadNetwork:
    torch.manual_seed(0)
    return DynamicHeadNetwork(sources, width=8, upsample="trilinear")


def grouped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same as one convolution, the samples as groups of its channels."""
    batch, channels = x.shape[:2]
    kernel = weight.reshape(-1, channels, 1, 1, 1)
    joined = F.conv3d(x.reshape(1, -1, *x.shape[2:]), kernel, bias.reshape(-1), groups=batch)
    return joined.reshape(batch, -1, *x.shape[2:])


def test_each_sample_is_convolved_with_its_own_weights() -> None:
    x, weight, bias = rand(BATCH, 4, 2, 3, 5), rand(BATCH, 12, seed=1), rand(BATCH, 3, seed=2)
    found = dynamic_conv(x, weight, bias)
    torch.testing.assert_close(found, grouped(x, weight, bias))
    expected = torch.einsum("bczyx,boc->bozyx", x, weight.reshape(BATCH, 3, 4))
    torch.testing.assert_close(found, expected + bias[:, :, None, None, None])


def test_the_head_is_the_chain_of_grouped_convolutions() -> None:
    """Static, then h - norm(W_d h + b_d), then three by the content; one group of norm a sample."""
    torch.manual_seed(3)
    head = DynamicHead(CHANNELS, CONTENT, SOURCES)
    x, code, content = rand(BATCH, CHANNELS, 4, 6, 5), rand(BATCH, SOURCES), rand(BATCH, CONTENT)

    def norm(value: Tensor) -> Tensor:
        flat = value.flatten(1)
        mean, variance = flat.mean(dim=1, keepdim=True), flat.var(1, unbiased=False, keepdim=True)
        return ((flat - mean) / (variance + 1e-5).sqrt()).view_as(value)

    h = head.reduce(x)
    mean = h.mean(dim=(2, 3, 4), keepdim=True)
    h = F.leaky_relu((h - mean) / (h.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt())
    made = head.domain_controller(code)
    h = F.leaky_relu(h - norm(grouped(h, made[:, :16], made[:, 16:])))
    made = head.content_controller(content)
    h = F.leaky_relu(norm(grouped(h, made[:, :16], made[:, 16:20])))
    h = F.leaky_relu(norm(grouped(h, made[:, 20:36], made[:, 36:40])))
    expected = grouped(h, made[:, 40:44], made[:, 44:])
    torch.testing.assert_close(head(x, code, content), expected, rtol=1e-4, atol=1e-4)


def test_as_many_weights_are_made_as_the_layers_have() -> None:
    for sources in (2, 3):
        head, k = DynamicHead(CHANNELS, CONTENT, sources), 2 * sources
        assert head.domain_controller.out_features == k * k + k
        assert head.content_controller.out_features == 2 * k * k + k + k + k + 1
    assert DynamicHead(32, 256, 2).content_controller.out_features == 45


def test_another_sample_of_the_batch_changes_nothing() -> None:
    network = make_network().eval()
    image = torch.rand(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    other = image.clone()
    other[1] = 1 - other[1].flip(0)
    with torch.no_grad():
        found, changed = network(image).logits, network(other).logits
    torch.testing.assert_close(found[0], changed[0], rtol=0, atol=1e-5)
    assert not torch.allclose(found[1], changed[1])


def test_a_sure_classifier_predicts_as_its_center_was_trained() -> None:
    network = make_network().eval()
    image = torch.rand(1, 1, 8, 16, 16)
    torch.nn.init.zeros_(network.classifier.weight)
    logits = []
    with torch.no_grad():
        for domain in (0, 1):
            network.classifier.bias.copy_(1e4 * (2 * torch.eye(2)[domain] - 1))
            trained = network(image, torch.tensor([domain])).logits
            assert torch.equal(network(image).logits, trained)
            logits.append(trained)
    assert not torch.equal(*logits)


def test_the_classifier_sees_every_stage_and_teaches_none() -> None:
    network = make_network()
    outputs = network(torch.rand(1, 1, 8, 16, 16), torch.tensor([1]))
    F.cross_entropy(outputs.domain_logits, torch.tensor([1])).backward()
    learned = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learned == {"classifier.weight", "classifier.bias"}
    weight = network.classifier.weight.grad
    assert weight is not None
    assert weight.shape[1] == (1 + 2 + 4 + 8 + 8) * 8
    assert weight.count_nonzero() == weight.numel()


def test_the_logits_teach_the_encoder_through_the_content_too() -> None:
    network = make_network()
    network.head.reduce.requires_grad_(False)
    torch.nn.init.zeros_(network.head.reduce.weight)  # the finest features tell nothing
    network(torch.rand(1, 1, 8, 16, 16), torch.tensor([0])).logits.sum().backward()
    deepest = network.stage4.get_parameter("1.conv2.weight").grad
    assert deepest is not None
    assert deepest.count_nonzero() > 0


def test_the_backbone_is_the_plain_one_without_its_head() -> None:
    torch.manual_seed(0)
    backbone = ResidualEncoderDecoder(width=8, distance=False, slices=False, projection=False)
    expected = {n: v for n, v in backbone.state_dict().items() if "segmentation_head" not in n}
    tensors = make_network().state_dict()
    assert same({n: tensors[n] for n in expected}, expected)
    assert not any("segmentation_head" in name for name in tensors)


def test_parameters_at_full_width() -> None:
    with torch.device("meta"):
        network = DynamicHeadNetwork(2, width=32, upsample="nearest")
    classifier, domain, content, static = 736 * 2 + 2, 2 * 20 + 20, 256 * 45 + 45, 32 * 4 + 4 + 8
    added = classifier + domain + content + static
    assert sum(p.numel() for p in network.parameters()) == 18_957_825 - 33 + added
    assert added == 13_239
