"""Fully connected layers written otherwise, against the loop by definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.optim.m_sam import gradients

from ..against_the_definition import assert_by_the_loop, assert_silent, check, optimizer_of
from ..networks import rand


class Products(nn.Module):
    def __init__(self, use):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.use = nn.Linear(3, 4), use
        self.w, self.b = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5))
        self.bilinear = nn.Bilinear(4, 4, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
        self.double()

    def forward(self, x):
        h = self.first(x).tanh()
        y = self.use(self, h)
        return y.flatten(1).square().mean(1) + h.flatten(1).sin().sum(1)


def rows(f):
    """``f`` of all positions as rows of one matrix."""
    return lambda net, h: f(net, h.flatten(0, -2)).unflatten(0, h.shape[:-1])


USES = {
    "addmm": rows(lambda net, h: torch.addmm(net.b, h, net.w)),
    "mm": rows(lambda net, h: h.mm(net.w)),
    "matmul": lambda net, h: h @ net.w + net.b,
    "twice": lambda net, h: torch.matmul(h, net.w) + (h.sin() @ net.w).tanh(),
    "tied to the transposed": lambda net, h: F.linear(h @ net.w, net.w),
    "bilinear": lambda net, h: net.bilinear(h, h.cos()),
    "weight norm": lambda net, h: net.normed(h),
}


@pytest.fixture(params=["pairwise", "built", "chosen"])
def way(request, monkeypatch):
    if request.param != "chosen":
        monkeypatch.setattr(gradients.Factors, "pays", lambda *_: request.param == "pairwise")


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("use", USES)
@pytest.mark.usefixtures("way")
def test_products(use, m):
    model = Products(USES[use])
    for shape in ((5, 3), (5, 2, 3)):
        x = rand(*shape)
        assert_silent(model, lambda x=x: model(x), m)


@settings(max_examples=10, deadline=None)
@given(n=st.integers(2, 6), m=st.integers(1, 6), positions=st.integers(1, 6), use=st.sampled_from(sorted(USES)))
def test_any_size(n, m, positions, use):
    model, x = Products(USES[use]), rand(n, positions, 3)
    assert_silent(model, lambda: model(x), m, audit=False, perturbed_norms=True)


@pytest.mark.parametrize("frozen", ["w", "b"])
def test_one_of_them_frozen(frozen):
    model, x = Products(USES["addmm"]), rand(5, 2, 3)
    getattr(model, frozen).requires_grad_(False)
    assert_silent(model, lambda: model(x), 2, memory_limit=1)


def test_a_scaled_sum_is_another_function():
    model, x = Products(lambda net, h: torch.addmm(net.b, h, net.w, beta=0.5)), rand(5, 3)
    check(model, optimizer_of(model, 2), lambda: model(x), 2)


def test_a_product_of_the_examples():
    """The rows of what is multiplied are features."""
    model, x = Products(lambda net, h: (h.T @ h) @ net.w), rand(4, 3)
    assert_by_the_loop(model, lambda: model(x), audit=False)
