"""Edges against the papers' formulas, their limits, and optimizers on quadratics that lie beside them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.curvature import rho_for_sharpness, sam_edge, sharpness_for_rho
from lowland.edges import descent_edge

positive = st.floats(1e-4, 1e4)


@given(norm=positive, lr=positive, rho=positive)
def test_is_the_papers_formula(norm, lr, rho):
    # In high precision: the formula as printed loses digits where 8ρ/(η‖g‖) is small.
    from mpmath import mp, mpf, sqrt

    with mp.workdps(60):
        exact = mpf(norm) / (2 * mpf(rho)) * (sqrt(1 + 8 * mpf(rho) / (mpf(lr) * mpf(norm))) - 1)
    assert sam_edge(norm, lr, rho) == pytest.approx(float(exact), rel=1e-14)
    tensor = sam_edge(torch.tensor(norm, dtype=torch.float64), lr, rho)
    assert tensor.item() == pytest.approx(float(exact), rel=1e-13)


@given(norm=positive, lr=positive, rho=positive)
def test_is_where_the_linearized_step_along_the_eigenvector_starts_to_oscillate(norm, lr, rho):
    # On the quadratic with one eigenvalue h, at gradient g: SAM moves w by −η(g + hρ·sign g). The step overshoots
    # to a gradient of the same size when η h (1 + ρ h/|g|) = 2.
    h = sam_edge(norm, lr, rho)
    assert lr * h * (1 + rho * h / norm) == pytest.approx(2, rel=1e-9)


def test_limits():
    assert sam_edge(3.0, 0.1, 0) == 20
    assert sam_edge(0.0, 0.1, 0.5) == 0
    assert sam_edge(0.0, 0.1, 0.0) == 20
    norms = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    edges = sam_edge(norms, 0.1, torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64))
    assert edges.tolist() == pytest.approx([0.0, 20.0, sam_edge(2.0, 0.1, 0.5)])
    assert torch.vmap(lambda g: sam_edge(g, 0.1, 0.5))(norms).tolist()[2] == pytest.approx(edges[2].item())


@pytest.mark.parametrize("bad", [(1, 0, 1), (1, 1, -1), (-1, 1, 1), (math.nan, 1, 1), (1, math.nan, 1)])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=r"edge needs|must be a number, not nan"):
        sam_edge(*bad)


betas = st.floats(0, 0.95)


def last(eigenvalue, rho, steps=4000, **options):
    """|w| after so many steps of unnormalized SAM from 1 on the loss λw²/2, in units of the largest before."""
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    base = torch.optim.SGD([w], **options)
    reached = []
    for _ in range(steps):
        w.grad = eigenvalue * (w.detach() + rho * eigenvalue * w.detach())
        base.step()
        reached.append(abs(w.item()))
        if not 1e-100 < reached[-1] < 1e100:
            break
    half = len(reached) // 2
    return max(reached[half:]) / max(reached[:half])


@settings(max_examples=15, deadline=None)
@given(h=st.floats(0.1, 10), lr=st.floats(0.01, 1), beta=betas, nesterov=st.booleans(), share=st.floats(0.05, 0.95))
def test_beside_the_edge_the_step_converges_or_grows(h, lr, beta, nesterov, share):
    nesterov = nesterov and beta > 0
    h = share * descent_edge(lr, beta, nesterov)
    rho = rho_for_sharpness(h, lr, beta, nesterov)
    options = {"lr": lr, "momentum": beta, "nesterov": nesterov}
    assert last(0.98 * h, rho, **options) < 1
    assert last(1.02 * h, rho, **options) > 1


@given(h=positive, share=st.floats(1e-6, 1), beta=betas, nesterov=st.booleans())
def test_each_is_the_inverse_of_the_other(h, share, beta, nesterov):
    lr = share / h
    rho = rho_for_sharpness(h, lr, beta, nesterov) if h <= descent_edge(lr, beta, nesterov) else 0.0
    assert h * (1 + rho * h) <= descent_edge(lr, beta, nesterov) * (1 + 1e-9)
    if rho > 0:
        assert sharpness_for_rho(rho, lr, beta, nesterov) == pytest.approx(h, rel=1e-9)


def test_without_momentum_it_is_that_of_gradient_descent():
    assert descent_edge(0.1) == 20
    assert descent_edge(0.1, 0.9) == pytest.approx(38)
    assert descent_edge(0.1, 0.9, nesterov=True) == pytest.approx(38 / 2.8)
    assert rho_for_sharpness(20.0, 0.1) == 0
    assert sharpness_for_rho(0, 0.1) == 20


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rho_for_sharpness(20.1, 0.1), r"20\.1 can't be held at lr = 0\.1: .* at most 20, .* smaller lr"),
        (lambda: rho_for_sharpness(0, 0.1), "above 0"),
        (lambda: rho_for_sharpness(-1, 0.1), "must be above 0"),
        (lambda: rho_for_sharpness(1e-200, 0.1), "at least"),
        (lambda: rho_for_sharpness(math.nan, 0.1), "not nan"),
        (lambda: rho_for_sharpness("a", 0.1), "not 'a'"),
        (lambda: rho_for_sharpness(1, 0), "lr above 0"),
        (lambda: rho_for_sharpness(1, 0.1, 1), "momentum below 1"),
        (lambda: sharpness_for_rho(-1, 0.1), "rho must be a number, at least 0"),
        (lambda: sharpness_for_rho(math.inf, 0.1), "at most"),
    ],
)
def test_bad_numbers_of_the_dial(call, says):
    with pytest.raises(ValueError, match=says):
        call()
