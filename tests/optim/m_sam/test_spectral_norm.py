"""Spectral norm in training mode: each group's power iteration goes on from the buffers, at its own weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils import spectral_norm as by_hook
from torch.nn.utils.parametrizations import spectral_norm as by_parametrization
from torch.utils.checkpoint import checkpoint

from tests.optim import textbook

from .against_the_definition import assert_by_the_loop, check, optimizer_of
from .against_the_loop import relative_error
from .networks import rand

NORMS = {"parametrization": by_parametrization, "hook": by_hook}


class Net(nn.Module):
    """Layers that are called once, or twice: then vectors go on from those of the call before."""

    def __init__(self, norm, twice=False, iterations=1):
        super().__init__()
        torch.manual_seed(0)
        self.first = norm(nn.Linear(3, 4), n_power_iterations=iterations)
        self.second = norm(nn.Conv1d(4, 4, 2), n_power_iterations=iterations)
        self.twice = twice
        self.double()

    def forward(self, x):
        y = self.second(self.first(x).tanh().mT)
        if self.twice:
            y = self.second(y.sin()).mean(2) + self.first(x[:, 0].cos())
        return y.flatten(1).square().mean(1)


def vectors(net):
    return [b.detach().clone() for b in net.buffers()]


def put(net, values):
    with torch.no_grad():
        for b, value in zip(net.buffers(), values, strict=True):
            b.copy_(value)


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_gradient_and_vectors(norm, iterations, twice, m):
    net, x = Net(NORMS[norm], twice, iterations), rand(5, 4, 3)
    params, before, same = list(net.parameters()), vectors(net), list(net.buffers())
    optimizer = optimizer_of(net, m)
    optimizer.backward(lambda: net(x))
    assert optimizer.last is not None
    after, now = vectors(net), list(net.buffers())
    assert all(a is b and type(a) is torch.Tensor for a, b in zip(same, now, strict=True))

    def losses():
        put(net, before)
        return net(x)

    expected = textbook.m_sam(lambda rows: losses()[rows].mean(), params, 5, m, 0.1, evaluate=textbook.by_backward)
    assert relative_error([p.grad for p in params], expected) < 1e-9
    losses()
    for ours, right in zip(after, net.buffers(), strict=True):
        torch.testing.assert_close(ours, right)


@pytest.mark.parametrize("norm", NORMS)
def test_in_parts_with_norms(norm):
    net, x = Net(NORMS[norm]), rand(5, 4, 3)
    start = vectors(net)

    def losses():
        put(net, start)
        return net(x)

    optimizer = optimizer_of(net, 1, memory_limit=1, perturbed_norms=True)
    check(net, optimizer, losses, 1)
    assert optimizer.last is not None


def test_in_evaluation_mode():
    net, x = Net(by_parametrization).eval(), rand(5, 4, 3)
    optimizer = optimizer_of(net, 2)
    assert not check(net, optimizer, lambda: net(x), 2)
    assert optimizer.last is not None


def test_a_checkpoint_calls_it_again_by_the_loop():
    """Backward calls the layer again, from the vectors that forward has left."""
    net, x = Net(by_parametrization), rand(5, 4, 3).requires_grad_()
    before = vectors(net)

    def losses():
        put(net, before)
        return checkpoint(net, x, use_reentrant=True)

    assert_by_the_loop(net, losses, 2, audit=False)


def cached(net, x):
    with parametrize.cached():
        return net.first(x) + net.first(x.cos())


def in_both_modes(net, x):
    net.eval()
    before = net.first(x)
    net.train()
    return before * net.first(x)


def beside_a_vector(net, x):
    y = net.first(x)
    return y * net.first.parametrizations.weight[0]._u


@pytest.mark.parametrize("use", [cached, in_both_modes, beside_a_vector])
def test_other_uses(use):
    net, x = Net(by_parametrization), rand(5, 4, 3)
    before = vectors(net)

    def losses():
        put(net, before)
        return use(net, x).square().sum((1, 2))

    optimizer = optimizer_of(net, 2)
    assert not check(net, optimizer, losses, 2)
    assert optimizer.last is not None


def test_a_vector_that_is_read_goes_by_the_loop():
    net, x = Net(by_parametrization), rand(5, 4, 3)
    before = vectors(net)

    def losses():
        put(net, before)
        y = net.first(x)
        return y.sum((1, 2)) * (2 if net.first.parametrizations.weight[0]._u[0].item() > 0 else 1)

    assert_by_the_loop(net, losses, 2, audit=False)


class Written(nn.Module):
    """Writes what parameters give to a buffer of which there is a view."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 4).double()
        self.register_buffer("vector", torch.zeros(4).double())
        self.view = self.vector[:]

    def forward(self, x):
        with torch.no_grad():
            nn.functional.normalize(self.layer.bias, dim=0, out=self.vector)
        return (self.layer(x) * self.view).sum(1)


@pytest.mark.parametrize("m", [1, 2])
def test_what_sees_the_buffer_by_another_name_goes_by_the_loop(m):
    net, x = Written(), rand(5, 3)
    assert_by_the_loop(net, lambda: net(x), m, audit=False)
