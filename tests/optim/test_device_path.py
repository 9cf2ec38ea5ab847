"""What runs on an accelerator, where numbers stay in tensors so that nothing waits, run on the CPU."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowland.optim import SAM, ascent, displacement, sharding
from lowland.optim.amp import pass_on_overflow

from . import test_presets, textbook
from .training import assert_equal, losses, network, sgd, train


@pytest.fixture
def on_a_device(monkeypatch):
    """Norms come as tensors, as they do from a device; fused kernels where CUDA has them."""
    for name in ("climb.global_norm", "combine.global_dot"):
        real = getattr(sharding, name.split(".")[1])
        monkeypatch.setattr(f"lowland.optim.{name}", lambda *a, real=real: torch.tensor(real(*a), dtype=torch.float64))


@pytest.mark.parametrize("norm", [0.0, 1e-30, 2.5, 1e30, math.inf, math.nan])
@pytest.mark.parametrize("eps", [1e-12, 0.1])
def test_the_climb_is_the_same_in_tensors_and_in_numbers(norm, eps):
    numbers = ascent.l2(norm, eps, 4.0)
    tensors = ascent.l2(torch.tensor(norm, dtype=torch.float64), eps, torch.tensor(4.0))
    assert tensors.factor.item() == pytest.approx(numbers.factor)
    assert tensors.overflow.item() == numbers.overflow


def test_trains_like_the_textbook(on_a_device):
    ours, expected = network(), network()
    groups = [{"params": ours[0].parameters(), "rho": 0.7}, {"params": ours[2].parameters()}]
    train(ours, SAM(sgd(groups), rho=0.1), losses(ours))
    textbook.train(expected, sgd(expected), losses(expected), [0.7, 0.7, 0.1, 0.1])
    assert_equal(ours, expected)


def test_sparse_gradients(on_a_device):
    table = nn.Embedding(5, 3, sparse=True).double()
    dense = nn.Embedding(5, 3, _weight=table.weight.detach().clone())
    tokens = torch.tensor([0, 2, 2, 4])
    for model, rho in ((table, 0.5), (dense, 0.5)):
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=rho)
        train(model, optimizer, [lambda m=model: m(tokens).square().sum()] * 3)
    torch.testing.assert_close(table.weight, dense.weight)


# Not in half precision: torch's fused SGD without momentum is wrong there on a CPU. On CUDA, see test_cuda.py.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=20, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4),
    scale=st.sampled_from([0.0, 1e-4, 0.3, 7.0]),
    bad=st.sampled_from([None, math.inf, math.nan]),
)
def test_the_fused_kernel_adds_or_leaves_alone(dtype, shapes, scale, bad):
    torch.manual_seed(0)
    weights = [torch.randn(shape).to(dtype) for shape in shapes]
    gradients = [torch.randn(shape).to(dtype) for shape in shapes]
    if bad is not None:
        scale = 0.0  # what a norm that is not finite makes of it
        for gradient in gradients:
            gradient.fill_(bad)
    expected = [
        w + (scale * g.double()).to(dtype) if scale else w.clone() for w, g in zip(weights, gradients, strict=True)
    ]
    kept = [gradient.clone() for gradient in gradients]
    displacement._add_fused(weights, gradients, torch.tensor(scale, dtype=torch.float64))
    for weight, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight, value)
    for gradient, value in zip(gradients, kept, strict=True):
        torch.testing.assert_close(gradient, value, rtol=0, atol=0, equal_nan=True)


def test_overflow_is_passed_on_in_the_smallest_gradient():
    large, small = torch.ones(5), torch.ones(2)
    pass_on_overflow(torch.tensor(False), [large, small])
    assert small.tolist() == [1.0, 1.0]
    pass_on_overflow(torch.tensor(True), [large, small])
    assert small.isnan().all()
    assert large.tolist() == [1.0] * 5


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", test_presets.CASES)
def test_every_preset(on_a_device, name, scaled):
    """In tensors as in numbers, overflows included."""
    model, optimizer, book = test_presets.pair(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0) if scaled else None
    for step, bad in enumerate([(), (), (0,), (1,), (), ()] if scaled else [()] * 5):
        climbed, passes = test_presets.run(model, optimizer, step, scaler, bad)
        if not any(index < passes for index in bad):
            book.step(step, climbed)
        elif book.rule is test_presets.family.friendly and 0 not in bad:
            book.gradients(step)
        assert_equal(model, book.model)
