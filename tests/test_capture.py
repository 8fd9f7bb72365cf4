"""Inner features of a network during a forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.capture import captured


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_input_and_output_of_each_module_are_those_of_the_pass() -> None:
    network, x = make_network(), torch.rand(5, 3)
    first, middle, _ = network
    with captured(first, middle) as calls:
        network(x)
    assert set(calls) == {first, middle}
    assert calls[first].input is x
    assert calls[middle].input is calls[first].output
    torch.testing.assert_close(calls[middle].output, first(x).tanh())


def test_a_gradient_flows_from_what_was_captured() -> None:
    before, middle, after = nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)
    with captured(middle) as calls:
        nn.Sequential(before, middle, after)(torch.rand(5, 3))
    calls[middle].output.sum().backward()
    assert before.weight.grad is not None
    assert before.weight.grad.count_nonzero() > 0
    assert after.weight.grad is None


def test_of_several_calls_the_last_is_kept_and_none_from_outside() -> None:
    network, first, later = make_network(), torch.rand(1, 3), torch.rand(2, 3)
    with captured(network[0]) as calls:
        network(first)
        network(later)
    assert calls[network[0]].input is later
    network(first)
    assert calls[network[0]].input is later


def test_nothing_stays_behind_even_after_an_error() -> None:
    network = make_network()
    with pytest.raises(RuntimeError, match="shapes"), captured(*network):
        network(torch.rand(5, 7))
    assert not any(module._forward_hooks for module in network.modules())
