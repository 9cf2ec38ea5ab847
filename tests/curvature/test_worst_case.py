"""Worst-case sharpness against a textbook version that moves the weights, and closed forms, in float64."""

import copy
import math
from itertools import pairwise
from statistics import stdev

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


def highest(model, loss_fn, x, y, rho, steps, stride=0.1, starts=(), scale=1.0):
    """The highest rise seen by ascents from w and from ``starts``, in units of ``scale``."""
    moved, seen = copy.deepcopy(model), []
    w, p = nn.utils.parameters_to_vector(model.parameters()).detach(), list(moved.parameters())

    def at(z):
        nn.utils.vector_to_parameters(w + scale * z, p)
        loss = loss_fn(moved(x), y)
        return loss.item(), scale * torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, p)])

    def ball(z):
        return z * min(1.0, rho / z.norm().item())

    for start in [torch.zeros_like(w), *starts]:
        visited = [start]
        for _ in range(steps):
            _, g = at(visited[-1])
            visited.append(ball(visited[-1] + stride * rho * g / g.norm()))
        _, g = at(start)
        seen += [at(ball(start + rho * g / g.norm()))[0], *(at(z)[0] for z in visited[1:] if steps > 1)]
    return max([*seen, *(at(z)[0] for z in starts)]) - at(torch.zeros_like(w))[0]


def textbook(model, loss_fn, x, y, rho, m, steps):
    parts = zip(x.split(m), y.split(m), strict=True)
    return sum(len(a) * highest(model, loss_fn, a, b, rho, steps) for a, b in parts) / len(x)


def random_starts(model, rho, restarts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = sum(p.numel() for p in model.parameters())
    directions = [torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(restarts - 1)]
    return [rho * d / d.norm() for d in directions]


class Quadratic(nn.Module):
    """½ wᵀAw + bᵀw, A a batch's inputs and b its targets."""

    def __init__(self, n, seed=0):
        super().__init__()
        self.w = nn.Parameter(torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))

    def forward(self, a):
        return self.w @ a @ self.w / 2, self.w

    @staticmethod
    def loss(out, b):
        return out[0] + out[1] @ b


def quadratic(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return root @ root.T / n, torch.randn(n, generator=generator, dtype=torch.float64)


def maximum(model, a, b, rho):
    """Of the rise over the ball: e = (μ − A)⁻¹g, by bisection for the μ > λ₁ at which ‖e‖ = ρ."""
    values, vectors = torch.linalg.eigh(a)
    g = vectors.T @ (a @ model.w.detach() + b)
    low, high = values[-1].item(), values[-1].item() + g.norm().item() / rho
    for _ in range(200):
        mu = (low + high) / 2
        e = g / (mu - values)
        low, high = (mu, high) if e.norm() > rho else (low, mu)
    return (g @ e + values @ e**2 / 2).item()


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


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    m=st.sampled_from([None, 1, 3]),
    steps=st.integers(1, 4),
    restarts=st.integers(1, 3),
    stride=st.floats(0.05, 1.0),
    adaptive=st.booleans(),
)
def test_every_value_is_the_textbook_version(cuts, m, steps, restarts, stride, adaptive):
    model, (x, y) = small(), data(sum(cuts))
    rho = 0.4
    found = sharpness(
        model, F.cross_entropy, list(zip(x.split(cuts), y.split(cuts), strict=True)), rho, m,
        steps=steps, restarts=restarts, step_size=stride, adaptive=adaptive, seed=3,
    )  # fmt: skip
    pieces = [part for piece in x.split(cuts) for part in (piece.split(m) if m else [piece])]
    starts, scale = random_starts(model, rho, restarts, seed=3), 1.0
    if adaptive:
        scale = nn.utils.parameters_to_vector(model.parameters()).detach().abs()
    sizes = [len(piece) for piece in pieces]
    expected = [
        highest(model, F.cross_entropy, a, b, rho, steps, stride, starts, scale)
        for a, b in zip(pieces, y.split(sizes), strict=True)
    ]
    assert found.values == pytest.approx(expected, rel=1e-9)
    assert found.weights == tuple(sizes)
    assert found.value == pytest.approx(sum(n * v for n, v in zip(sizes, expected, strict=True)) / len(x), rel=1e-9)
    assert float(found) == found.value


def test_standard_error():
    model, (x, y) = small(), data(6)
    found = sharpness(model, F.cross_entropy, [(x, y)], 0.3, m=2)
    assert found.standard_error == pytest.approx(stdev(found.values) / math.sqrt(3))
    assert sharpness(model, F.cross_entropy, [(x, y)], 0.3).standard_error is None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), rho=st.floats(0.01, 20.0), adaptive=st.booleans(), step_size=st.sampled_from([None, 1]))
def test_more_steps_and_restarts_never_find_less(seed, rho, adaptive, step_size):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x, y = data(5, seed)

    def found(steps, restarts):
        options = {"adaptive": adaptive, "step_size": step_size, "seed": seed}
        return sharpness(model, F.cross_entropy, [(x, y)], rho, steps=steps, restarts=restarts, **options).value

    for several in ([found(steps, 2) for steps in (1, 2, 3, 6)], [found(2, restarts) for restarts in (1, 2, 3, 5)]):
        assert several == sorted(several)


@pytest.mark.parametrize("n", [1, 6])
def test_many_steps_reach_the_maximum_over_the_ball(n):
    (a, b), model = quadratic(n), Quadratic(n)
    values = []
    for rho in (0.1, 1.0, 5.0):
        found = sharpness(model, model.loss, [(a, b)], rho, steps=300, restarts=2, weight=lambda x, y: 1).value
        exact = maximum(model, a, b, rho)
        assert found == pytest.approx(exact, rel=1e-6)
        assert found <= exact * (1 + 1e-9)
        values.append(found)
    assert values == sorted(values)


def test_only_restarts_lead_away_from_a_minimum():
    (a, _), model = quadratic(6), Quadratic(6)
    nn.init.zeros_(model.w)
    rho, options = 0.7, {"weight": lambda x, y: 1}
    batches = [(a, torch.zeros(6, dtype=torch.float64))]
    assert sharpness(model, model.loss, batches, rho, steps=50, **options).value == 0
    reached = []
    for start in random_starts(model, rho, 3, seed=3):
        g = a @ start
        e = start + rho * g / g.norm()
        e *= min(1.0, rho / e.norm().item())
        reached.append(max(start @ a @ start, e @ a @ e).item() / 2)
    assert reached[0] != reached[1]
    for restarts in (2, 3):
        found = sharpness(model, model.loss, batches, rho, restarts=restarts, seed=3, **options)
        assert found.value == pytest.approx(max(reached[: restarts - 1]), rel=1e-12)
    found = sharpness(model, model.loss, batches, rho, steps=300, restarts=2, **options)
    assert found.value == pytest.approx(rho**2 * torch.linalg.eigvalsh(a)[-1].item() / 2, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), rhos=st.lists(st.floats(0.0, 10.0), min_size=2, max_size=4))
def test_one_step_on_a_convex_quadratic_finds_more_in_a_larger_ball(seed, rhos):
    (a, b), model = quadratic(4, seed), Quadratic(4, seed)
    values = [sharpness(model, model.loss, [(a, b)], rho, weight=lambda x, y: 1).value for rho in sorted(rhos)]
    assert all(low <= high + 1e-12 for low, high in pairwise(values))


class Scaled(nn.Module):
    """A network as a function of z = w/|w0|."""

    def __init__(self, net):
        super().__init__()
        self.net = [net]  # not a child: its parameters are constants
        self.scales = {name: p.detach().abs() for name, p in net.named_parameters()}
        self.z = nn.ParameterList([nn.Parameter(p.detach().sign()) for p in net.parameters()])

    def forward(self, x):
        values = {name: scale * z for (name, scale), z in zip(self.scales.items(), self.z, strict=True)}
        return torch.func.functional_call(self.net[0], values, (x,))


@pytest.mark.parametrize(("steps", "restarts"), [(1, 1), (5, 3)])
def test_adaptive_is_plain_in_rescaled_weights(steps, restarts):
    model, batches = small(), [data()]
    options = {"rho": 0.5, "m": 3, "steps": steps, "restarts": restarts}
    adaptive = sharpness(model, F.cross_entropy, batches, adaptive=True, **options)
    assert adaptive.values == pytest.approx(sharpness(Scaled(model), F.cross_entropy, batches, **options).values)
    # Scaling a tanh's outputs up and what reads them down is the same network, which plain sharpness doesn't see.
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight *= 10
        other[2].bias *= 10
    scaled = lambda out, y: F.cross_entropy(out / 10, y)  # noqa: E731
    assert sharpness(other, scaled, batches, adaptive=True, **options).values == pytest.approx(adaptive.values)
    plain = [sharpness(net, fn, batches, **options).value for net, fn in ((model, F.cross_entropy), (other, scaled))]
    assert plain[0] != pytest.approx(plain[1], rel=0.1)


def test_what_is_not_finite_is_seen():
    model, (x, y) = small(), data(4)
    poisoned = x.clone()
    poisoned[3] = math.nan
    for options in ({}, {"steps": 3, "restarts": 2}):
        found = sharpness(model, F.cross_entropy, [(poisoned, y)], 0.1, m=1, **options)
        assert [math.isfinite(v) for v in found.values] == [True, True, True, False]
        assert not math.isfinite(found.value)
        # Finite at w, and not at w + e.
        cliff = lambda out, y: out.square().mean() + torch.where(out.abs().max() > 2, math.inf, 0.0)  # noqa: E731
        assert sharpness(model, cliff, [(x, y)], 0.01, **options).value > 0
        assert not math.isfinite(sharpness(model, cliff, [(x, y)], 50.0, **options).value)
        # A gradient that isn't finite shows no way up; it is not flat.
        steep = lambda out, y: (out * 0).sum().abs().sqrt()  # noqa: E731
        assert math.isnan(sharpness(model, steep, [(x, y)], 0.1, **options).value)


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
    assert sharpness(model, flat, [(x, y)], 0.5, steps=steps, restarts=2, adaptive=True).value == 0
    assert sharpness(model, F.cross_entropy, [(x, y)], 0.0, steps=steps, restarts=2).value == 0


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
    for options, message in [
        ({"restarts": 0}, "restarts"),
        ({"step_size": 0}, "step_size"),
        ({"step_size": 2}, "step_"),
        ({"m": 0}, "m must"),
    ]:
        with pytest.raises(ValueError, match=message):
            sharpness(model, F.cross_entropy, [(x, y)], 0.1, **options)
    for options, message in [({"rho": -1}, "rho"), ({"m": 0}, "m must"), ({"m": True}, "m must"), ({"steps": 0}, "st")]:
        with pytest.raises(ValueError, match=message):
            m_sharpness(model, F.cross_entropy, [(x, y)], **{"rho": 0.1, **options})
    with pytest.raises(TypeError, match="generator"):
        m_sharpness(model, F.cross_entropy, iter([(x, y)]), 0.1)
    with pytest.raises(TypeError, match="two tensors"):
        m_sharpness(model, lambda out, y: out.sum(), [(x, None)], 0.1, m=2)


@settings(max_examples=25, deadline=None)
@given(
    rho=st.floats(1e-3, 1), steps=st.integers(1, 4), restarts=st.integers(1, 3), adaptive=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_in_a_box_it_is_between_one_step_and_the_highest_corner(rho, steps, restarts, adaptive, seed):
    torch.manual_seed(seed)
    model = nn.Linear(3, 1, bias=False).double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    found = sharpness(
        model, F.mse_loss, [(x, y)], rho, norm=math.inf, steps=steps, restarts=restarts, adaptive=adaptive, seed=seed
    )
    w = model.weight.detach().clone()
    scale = rho * (w.abs() if adaptive else torch.ones_like(w))
    loss = lambda weight: F.mse_loss(x @ weight.T, y).item()  # noqa: E731
    (gradient,) = torch.autograd.grad(F.mse_loss(model(x), y), [model.weight])
    one = loss(w + scale * gradient.sign()) - loss(w)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    highest = max(loss(w + scale * corner) for corner in corners) - loss(w)  # the loss is convex
    assert one - 1e-12 <= found.value <= highest + 1e-12
    if steps == restarts == 1:
        assert found.value == pytest.approx(one, abs=1e-12)
    assert torch.equal(model.weight, w)


def test_restarts_reach_the_highest_corner_of_a_box():
    torch.manual_seed(1)
    model = nn.Linear(3, 1, bias=False).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    y = model(x).detach()  # a minimum: the gradient is 0
    found = sharpness(model, F.mse_loss, [(x, y)], 0.1, norm=math.inf, restarts=30, steps=3)
    corners = 0.1 * torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    assert found.value == pytest.approx((corners @ x.T).square().mean(1).max().item())
    for wrong in (1, True, "inf", math.nan):
        with pytest.raises(ValueError, match="norm must be 2"):
            sharpness(model, F.mse_loss, [(x, y)], 0.1, norm=wrong)
