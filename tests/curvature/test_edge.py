"""The SAM edge against the paper's formula, and its limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowland.curvature import alignment, sam_edge

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


def test_alignment():
    a = torch.tensor([3.0, 4.0])
    assert alignment(a, -2 * a).item() == pytest.approx(1)
    assert alignment(a, torch.tensor([4.0, -3.0])).item() == pytest.approx(0)
    assert alignment(a, torch.zeros(2)).item() == 0
    for scale in (1e-25, 1e25):  # whose squares float32 doesn't hold
        assert alignment(scale * a, scale * a).item() == pytest.approx(1)


def test_alignment_of_what_is_not_finite():
    """Zero would say that they are orthogonal."""
    v = torch.tensor([1.0, 2.0])
    for bad in (math.nan, math.inf):
        assert math.isnan(alignment(torch.tensor([bad, 1.0]), v).item())
        assert math.isnan(alignment(v, torch.tensor([bad, 1.0])).item())
