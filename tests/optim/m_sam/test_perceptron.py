"""Perceptrons: every m, and everything SAM can be asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM, ascent

from ..training import climb_and_descend
from .against_the_loop import assert_exact, by_both, entropy, gradients, relative_error
from .networks import batch, perceptron


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_any_m_and_size(n, m, widths):
    x, y = batch(n, widths[0], widths[-1])
    model = perceptron(nn.Tanh(), widths=widths)
    assert_exact(model, lambda: (model(x) - y[:, None]).square().sum(1), m)


def rhos_by_group(model):
    params = list(model.parameters())
    return [{"params": params[:2], "rho": 0.3}, {"params": params[2:4], "rho": 0.0}, {"params": params[4:]}]


RULES = [ascent.Unnormalized(), ascent.Adaptive(), ascent.Adaptive(0.1, biases=True), ascent.LossBudget(0.2)]


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("l2", [0.0, 0.03])
@pytest.mark.parametrize("rule", [None, *RULES], ids=str)
def test_rules_penalty_radii_and_scope(rule, l2, m):
    model = perceptron(nn.ReLU(inplace=True))
    closure = entropy(model, *batch())
    assert_exact(model, closure, m, l2=l2, ascent=rule)
    assert_exact(model, closure, m, l2=l2, ascent=rule, scope=model[2])
    assert_exact(model, closure, m, l2=l2, ascent=rule, groups=rhos_by_group(model))
    model[0].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    assert_exact(model, closure, m, l2=l2, ascent=rule)


def test_an_unused_layer_with_a_penalty():
    model = perceptron(nn.Tanh())
    used, model = model, nn.ModuleList([model, nn.Linear(2, 2).double()])
    assert_exact(model, entropy(used, *batch()), 2, l2=0.1)


def test_at_m_of_the_batch_it_is_plain_sam():
    model = perceptron(nn.Tanh())
    x, y = batch()
    for m in (11, 50):
        optimizer = assert_exact(model, entropy(model, x, y), m)
        ours = gradients(model)
        optimizer.zero_grad()
        plain = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model)
        climb_and_descend(plain, lambda: F.cross_entropy(model(x), y))
        assert relative_error(ours, gradients(model)) < 1e-9


@pytest.mark.parametrize("m", [1, 3])
def test_dropout(m):
    model = perceptron(nn.ReLU(), nn.Dropout(0.3))
    assert_exact(model, entropy(model, *batch()), m)


def test_accumulation_adds_up_and_a_smaller_batch_is_noticed():
    model = perceptron(nn.Tanh())
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=2)
    total = None
    for n in (12, 12, 7, 9):
        closure = entropy(model, *batch(n))
        before = gradients(model)
        optimizer.backward(closure)
        added = [p.grad - (0 if b is None else b) for p, b in zip(model.parameters(), before, strict=True)]
        copy = gradients(model)
        _, (expected, _), _ = by_both(model, closure, 2)
        assert relative_error(added, expected) < 1e-9
        for p, g in zip(model.parameters(), copy, strict=True):
            p.grad = g
        total = copy
    assert optimizer._own.engine.reason is None
    assert total is not None


def test_fitted_examples_give_no_nan():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = batch()
    x = x.float()
    scale = torch.tensor([1e-30, 0.0, 1e30] + [1.0] * 8)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=1, eps=0.0)
    optimizer.backward(lambda: F.cross_entropy(model(x), y, reduction="none") * scale.clamp(max=1e3))
    assert all(p.grad.isfinite().all() for p in model.parameters())
