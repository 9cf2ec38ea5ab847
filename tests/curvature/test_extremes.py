"""Eigenpairs at both ends, copies included, against dense matrices in float64."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.curvature import Hessian, lanczos
from lowland.curvature import extremes as search
from lowland.curvature.lanczos import Operator
from lowland.curvature.wanted import Wanted
from tests.curvature.test_estimates import counted
from tests.curvature.test_hessian import data, dense, small


def extremes(operator, k=1, tol=1e-3, *, which="ends", max_products=1000, **options):
    return search.extremes(operator, Wanted(k, tol, which, max_products=max_products, **options))


def eigenpairs(operator, k=1, tol=1e-3, **options):
    return lanczos.eigenpairs(operator, Wanted(k, tol, **options))


def with_values(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q * torch.as_tensor(values, dtype=torch.float64) @ q.T


def ends(matrix, k):
    values = torch.linalg.eigvalsh(matrix)
    return torch.cat([values.flip(0)[:k], values[:k]])


@settings(max_examples=40, deadline=None)
@example(levels=[(0, 1), (1, 1)], k=1, which="magnitude", seed=0)  # nothing but zeros is left to look through
@example(levels=[(3, 2), (0, 2)], k=2, which="magnitude", seed=1)
@given(
    levels=st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 5)), min_size=1, max_size=8),
    k=st.integers(1, 4),
    which=st.sampled_from(["ends", "largest", "smallest", "magnitude"]),
    seed=st.integers(0, 10**6),
)
def test_equals_dense_linear_algebra_with_copies(levels, k, which, seed):
    values = [float(value) for value, copies in levels for _ in range(copies)]
    n = len(values)
    k = min(k, n // 2 if which == "ends" else n)
    if not k:
        return
    matrix = with_values(values, seed)
    operator = counted(matrix)
    found = extremes(operator, k, 1e-8, which=which)
    assert found.converged, found.reason
    assert found.products == operator.product.count
    ordered = {
        "ends": ends(matrix, k), "largest": ends(matrix, k)[:k], "smallest": ends(matrix, k)[k:],
        "magnitude": torch.tensor(sorted(values, key=lambda value: -abs(value))[:k]).double(),
    }[which]  # fmt: skip
    if which == "magnitude":
        assert torch.allclose(found.values.abs(), ordered.abs(), atol=1e-6)
    else:
        assert torch.allclose(found.values, ordered, atol=1e-6)
    assert torch.allclose(found.vectors @ found.vectors.T, torch.eye(len(found.values)).double(), atol=1e-9)
    recomputed = (found.vectors @ matrix - found.values[:, None] * found.vectors).norm(dim=1)
    assert torch.allclose(recomputed, found.residuals, atol=1e-10)


def test_copies_that_one_iteration_misses():
    bulk = torch.linspace(-0.5, 0.5, 295).tolist()
    matrix = with_values([3.0, 3.0, 3.0, -2.0, -2.0, *bulk])
    missed = eigenpairs(counted(matrix), 3, 1e-4)
    assert missed.converged
    assert (missed.values - 3).abs().max() > 0.5
    operator = counted(matrix)
    found = extremes(operator, 2, 1e-4)
    assert found.values.tolist() == pytest.approx([3, 3, -2, -2], abs=1e-3)
    assert found.products == operator.product.count < 100
    three = extremes(counted(matrix), 3, 1e-4, which="largest")
    assert three.values.tolist() == pytest.approx([3, 3, 3], abs=1e-3)


def test_both_ends_in_one_iteration():
    matrix = with_values(torch.linspace(-1, 2, 100).tolist())
    found = eigenpairs(counted(matrix), 2, 1e-8, which="ends")
    assert torch.allclose(found.values, ends(matrix, 2), atol=1e-6)


def test_gives_up_honestly():
    matrix = with_values([3.0, 3.0, *torch.linspace(-1, 1, 98).tolist()])
    full = extremes(counted(matrix), 1, 1e-6)
    first = eigenpairs(counted(matrix), 1, 1e-6, which="ends")
    assert first.products + 8 <= full.products
    found = extremes(counted(matrix), 1, 1e-6, max_products=first.products + 2)
    assert not found.converged
    assert "occurs several times" in found.reason
    few = extremes(counted(matrix), 1, 1e-6, max_products=5)
    assert not few.converged


def test_of_networks():
    model, (x, y) = small(), data()
    H = Hessian(model, F.cross_entropy, [(x[:4], y[:4]), (x[4:], y[4:])])
    found = H.extremes(3, tol=1e-7)
    assert found.converged
    assert torch.allclose(found.values, ends(dense(model, F.cross_entropy, x, y), 3), atol=1e-6)
    # A linear network with a squared loss has its input's covariance once for each output.
    torch.manual_seed(0)
    linear = nn.Linear(3, 2, bias=False).double()
    twice = Hessian(linear, F.mse_loss, [(x, torch.zeros(7, 2).double())]).extremes(2, tol=1e-8)
    exact = torch.linalg.eigvalsh(x.T @ x / 7)
    assert torch.allclose(twice.values, torch.stack([exact[2], exact[2], exact[0], exact[0]]), atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"k": 4}, "at most 3, not 4"), ({"k": 0}, "k must"), ({"which": "both"}, "which must"), ({"tol": -1}, "tol")],
)
def test_refusals(arguments, words):
    with pytest.raises(ValueError, match=words):
        extremes(Operator(lambda v: v, 6), **arguments)
    for find in (extremes, eigenpairs):
        with pytest.raises(TypeError, match="operator with products"):
            find(torch.eye(6))
    with pytest.raises(TypeError, match=r"torch\.Generator"):
        extremes(Operator(lambda v: v, 6), generator=3)
