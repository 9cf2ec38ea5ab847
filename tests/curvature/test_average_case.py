"""Average-case sharpness against closed forms and a textbook version, in float64."""

import copy
import math
from statistics import fmean, stdev

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import average_sharpness


class Quadratic(nn.Module):
    """½ wᵀAw + bᵀw, A a batch's inputs and b its targets."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, a):
        return self.w @ a @ self.w / 2, self.w

    @staticmethod
    def loss(out, b):
        return out[0] + out[1] @ b


def small(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *between, nn.Tanh(), nn.Linear(4, 2)).double()


def data(n=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=generator, dtype=torch.float64), torch.arange(n) % 2


@pytest.mark.parametrize("adaptive", [False, True])
def test_half_the_variance_times_the_trace(adaptive):
    generator = torch.Generator().manual_seed(0)
    w, b = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    a = root @ root.T
    model = Quadratic(w)
    exact = 0.3**2 * (a.diag() * (w**2 if adaptive else 1)).sum().item() / 2
    found = average_sharpness(
        model, model.loss, [(a, 100 * b)], 0.3, draws=400, adaptive=adaptive, weight=lambda x, y: 1
    )
    assert abs(found.value - exact) < 4 * found.standard_error
    assert found.standard_error < 0.1 * exact  # however steep it is: ξ and −ξ
    # What ξᵀAξ/2 of one pair varies by.
    scaled = a * w.outer(w).abs() if adaptive else a
    spread = 0.3**2 * math.sqrt(scaled.square().sum() / 2)
    assert found.standard_error == pytest.approx(spread / 20, rel=0.3)


@pytest.mark.parametrize("adaptive", [False, True])
def test_is_the_textbook_version(adaptive):
    model, (x, y) = small(), data()
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    before = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    found = average_sharpness(model, F.cross_entropy, batches, 0.2, draws=3, adaptive=adaptive, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, model.parameters()))

    generator = torch.Generator().manual_seed(5)
    w = nn.utils.parameters_to_vector(model.parameters()).detach()
    rises = []
    for _ in range(3):
        noise = 0.2 * torch.randn(len(w), generator=generator, dtype=torch.float64) * (w.abs() if adaptive else 1)
        moved, of_batches = copy.deepcopy(model), [0.0, 0.0]
        for sign in (1, -1):
            nn.utils.vector_to_parameters(w + sign * noise, moved.parameters())
            for i, (a, b) in enumerate(batches):
                of_batches[i] += (F.cross_entropy(moved(a), b) - F.cross_entropy(model(a), b)).item() / 2
        rises.append(of_batches)
    assert found.values == pytest.approx([fmean(values) for values in zip(*rises, strict=True)], rel=1e-9)
    assert found.weights == (5, 2)
    of_draws = [(5 * first + 2 * second) / 7 for first, second in rises]
    assert found.value == pytest.approx(fmean(of_draws), rel=1e-9)
    assert found.standard_error == pytest.approx(stdev(of_draws) / math.sqrt(3), rel=1e-9)
    assert average_sharpness(model, F.cross_entropy, batches, 0.2, draws=1).standard_error is None


def test_nothing_to_lose_and_what_is_not_finite():
    model, (x, y) = small(nn.Dropout(0.5)), data()
    assert average_sharpness(model, F.cross_entropy, [(x, y)], 0.0).value == 0  # the same masks each time
    x[6] = math.nan
    found = average_sharpness(model, F.cross_entropy, [(x[:4], y[:4]), (x[4:], y[4:])], 0.1, draws=2)
    assert [math.isfinite(v) for v in (*found.values, found.value, found.standard_error)] == [True, False, False, False]


def test_bad_arguments():
    model, batches = small(), [data()]
    for options, message in [({"rho": -1}, "rho"), ({"draws": 0}, "draws must"), ({"draws": 2.0}, "draws must")]:
        with pytest.raises(ValueError, match=message):
            average_sharpness(model, F.cross_entropy, batches, **{"rho": 0.1, **options})
    with pytest.raises(TypeError, match="generator"):
        average_sharpness(model, F.cross_entropy, iter(batches), 0.1)
