"""m-sharpness against a textbook version that moves the weights, in float64."""

import copy
import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.curvature import m_sharpness, sharpness


def small(*between, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *between, nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def data(n=7, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator, dtype=dtype), torch.arange(n) % 2


def textbook(model, loss_fn, x, y, rho, m, steps):
    total, stride = 0.0, rho if steps == 1 else 0.1 * rho
    for a, b in zip(x.split(m), y.split(m), strict=True):
        moved = copy.deepcopy(model)
        w, p = nn.utils.parameters_to_vector(model.parameters()).detach(), list(moved.parameters())
        at_w = loss_fn(moved(a), b).item()
        for _ in range(steps):
            g = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss_fn(moved(a), b), p)])
            offset = nn.utils.parameters_to_vector(p).detach() - w + stride * g / g.norm()
            offset = offset * min(1.0, rho / offset.norm().item())
            nn.utils.vector_to_parameters(w + offset, p)
        total += len(a) * (loss_fn(moved(a), b).item() - at_w)
    return total / len(x)


def test_example():
    assert doctest.testmod(sharpness).failed == 0


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 10), steps=st.sampled_from([1, 2, 20]), rho=st.floats(1e-3, 2.0))
def test_is_the_textbook_version(n, m, steps, rho):
    model, (x, y) = small(), data(n)
    expected = textbook(model, F.cross_entropy, x, y, rho, m, steps)
    before = [p.clone() for p in model.parameters()]
    assert m_sharpness(model, F.cross_entropy, [(x, y)], rho, m, steps=steps) == pytest.approx(expected, rel=1e-9)
    assert all(map(torch.equal, before, model.parameters()))
    assert all(p.grad is None for p in model.parameters())


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any), m=st.integers(1, 4))
def test_batches_of_any_size(cuts, m):
    # Groups don't go across batches; without m, all of them are one group.
    model, (x, y) = small(), data(sum(cuts))
    batches = list(zip(x.split(cuts), y.split(cuts), strict=True))
    parts = [len(a) * textbook(model, F.cross_entropy, a, b, 0.3, m, 1) for a, b in batches if len(a)]
    expected = sum(parts) / len(x)
    assert m_sharpness(model, F.cross_entropy, batches, 0.3, m) == pytest.approx(expected, rel=1e-9)
    whole = textbook(model, F.cross_entropy, x, y, 0.3, len(x), 1)
    assert m_sharpness(model, F.cross_entropy, batches, 0.3) == pytest.approx(whole, rel=1e-9)


def test_smaller_groups_are_sharper_and_more_steps_find_more():
    model, (x, y) = small(), data(8)
    of_m = [m_sharpness(model, F.cross_entropy, [(x, y)], 0.2, m) for m in (1, 2, 4, 8)]
    assert of_m == sorted(of_m, reverse=True)
    one, many = (m_sharpness(model, F.cross_entropy, [(x, y)], 1.0, steps=steps) for steps in (1, 20))
    assert many > one > 0


def test_weights_of_groups():
    model, (x, y) = small(), data(6)
    masked = lambda out, y: F.cross_entropy(out, y, ignore_index=1)  # noqa: E731
    # Every group of two has one entry that counts; one group has none, and is left out.
    y = torch.tensor([0, 1, 0, 1, 1, 1])
    value = m_sharpness(model, masked, [(x, y)], 0.3, 2, weight=lambda x, y: (y == 0).sum())
    expected = [textbook(model, masked, x[i : i + 2], y[i : i + 2], 0.3, 2, 1) for i in (0, 2)]
    assert value == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("steps", [1, 20])
def test_nothing_to_climb(steps):
    model, (x, y) = small(), data()
    assert m_sharpness(model, F.cross_entropy, [(x, y)], 0.0, steps=steps) == 0
    flat = lambda out, y: (out * 0).sum()  # noqa: E731
    assert m_sharpness(model, flat, [(x, y)], 0.5, 2, steps=steps) == 0


def test_dropout_is_one_function_and_the_random_state_stays():
    model, (x, y) = small(nn.Dropout(0.5)), data()
    state = torch.get_rng_state()
    first = m_sharpness(model, F.cross_entropy, [(x, y)], 1e-6)
    assert 0 < first < 1e-4  # the same masks at w and w + e
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_that_couple_examples():
    model, (x, y) = small(nn.BatchNorm1d(4)), data()
    before = copy.deepcopy(model.state_dict())
    assert m_sharpness(model, F.cross_entropy, [(x, y)], 0.1) > 0  # whole: nothing is cut
    assert m_sharpness(model, F.cross_entropy, [(x, y)], 0.1, m=7) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"batch norm \(1\)"):
        m_sharpness(model, F.cross_entropy, [(x, y)], 0.1, m=3)
    model.eval()
    expected = textbook(model, F.cross_entropy, x, y, 0.1, 3, 1)
    assert m_sharpness(model, F.cross_entropy, [(x, y)], 0.1, m=3) == pytest.approx(expected)


def test_bad_arguments():
    model, (x, y) = small(), data()
    for options, message in [({"rho": -1}, "rho"), ({"m": 0}, "m must"), ({"m": True}, "m must"), ({"steps": 0}, "st")]:
        with pytest.raises(ValueError, match=message):
            m_sharpness(model, F.cross_entropy, [(x, y)], **{"rho": 0.1, **options})
    with pytest.raises(TypeError, match="generator"):
        m_sharpness(model, F.cross_entropy, iter([(x, y)]), 0.1)
    with pytest.raises(TypeError, match="two tensors"):
        m_sharpness(model, lambda out, y: out.sum(), [(x, None)], 0.1, m=2)
