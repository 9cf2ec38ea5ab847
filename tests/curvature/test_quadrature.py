"""Spectral densities against those of dense matrices in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lowland.curvature import Hessian, quadrature
from lowland.curvature.lanczos import Operator
from tests.curvature.test_estimates import counted, symmetric
from tests.curvature.test_hessian import data, dense, small


def smoothed(values, grid, width):
    distances = (grid[:, None] - values[None]) / width
    return (-0.5 * distances**2).exp().mean(1) / (width * math.sqrt(2 * math.pi))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 30), samples=st.integers(1, 4), steps=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_moments_are_those_of_the_random_vectors(n, samples, steps, seed):
    matrix = symmetric(n, seed)
    operator = counted(matrix)
    found = quadrature.spectrum(operator, samples, steps, seed=seed)
    assert found.density.products == operator.product.count <= samples * min(steps, n)
    vectors = torch.stack([v for _, v in zip(range(samples), quadrature.signs(operator, seed), strict=False)])
    for p in range(min(2 * steps, 8)):
        exact = (vectors * (vectors @ torch.linalg.matrix_power(matrix, p))).sum(1) / n
        assert float(found.moment(p)) == pytest.approx(exact.mean().item(), abs=1e-8)
        if samples > 1:
            error = (exact.std() / math.sqrt(samples)).item()
            assert found.moment(p).standard_error == pytest.approx(error, abs=1e-8)
    assert torch.allclose(found.weights.sum(1), torch.ones(samples, dtype=torch.float64))
    area = torch.trapezoid(found.density.value, found.grid).item()
    assert area == pytest.approx(1, abs=1e-3)


def test_the_density_lies_within_its_error_of_that_of_the_dense_matrix():
    matrix = symmetric(200, decay=0.3)
    found = quadrature.spectrum(counted(matrix), 40, 60, width=0.1)
    exact = smoothed(torch.linalg.eigvalsh(matrix), found.grid, 0.1)
    away = (found.density.value - exact).abs()
    near = exact > 1e-3
    assert ((away / found.density.standard_error)[near] < 4.5).all()
    assert away[near].max() < 0.1 * exact.max()


def test_no_ghosts_in_float32():
    # Without reorthogonalization the extreme eigenvalue comes several times.
    values = torch.cat([torch.linspace(0, 1e-3, 197), torch.tensor([1.0, 10.0, 100.0])])
    q, _ = torch.linalg.qr(torch.randn(200, 200, generator=torch.Generator().manual_seed(0)))
    matrix = q * values @ q.T
    found = quadrature.spectrum(Operator(lambda v: matrix @ v, 200), 3, 40)
    for nodes in found.nodes:
        assert (nodes > 50).sum() == 1
        assert nodes[-1].item() == pytest.approx(100, rel=1e-5)


def test_samples_that_end_early_and_multiples_of_the_identity():
    twice = torch.diag(torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0, 2.0], dtype=torch.float64))
    found = quadrature.spectrum(counted(twice), 4, 5)
    assert found.nodes.shape == (4, 2)
    assert found.moment(50).value == pytest.approx((2 + 4 * 2**50) / 6, rel=1e-12)
    assert found.share_above(1.5).value == pytest.approx(4 / 6)
    for factor in (0.0, -3.0):
        found = quadrature.spectrum(counted(factor * torch.eye(4, dtype=torch.float64)), 2, 3)
        assert torch.allclose(found.nodes, torch.full((2, 1), factor, dtype=torch.float64))
        assert torch.trapezoid(found.density.value, found.grid).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("chunked", [False, True])
def test_of_a_network(chunked):
    model, (x, y) = small(), data()
    exact, eigenvectors = torch.linalg.eigh(dense(model, F.cross_entropy, x, y))
    batches = [(x[:4], y[:4]), (x[4:], y[4:])] if chunked else [(x, y)]
    H = Hessian(model, F.cross_entropy, batches)
    found = H.spectrum(20, 26, width=0.02)
    assert found.nodes.min().item() == pytest.approx(exact.min().item(), abs=1e-8)
    assert found.nodes.max().item() == pytest.approx(exact.max().item(), abs=1e-8)
    # With as many steps as there are eigenvalues nothing is left but what the random vectors have of each.
    with H.products() as product:
        vectors = quadrature.signs(Operator(product, 26, H.dtype), 0)
        shares = torch.stack([next(vectors) @ eigenvectors for _ in range(20)]).square() / 26
    bumps = torch.stack([smoothed(value[None], found.grid, 0.02) for value in exact])
    assert torch.allclose(found.density.value, shares.mean(0) @ bumps, atol=1e-7)
    again = found.on(found.grid[::7], 0.02)
    assert torch.allclose(again.value, found.density.value[::7])
    assert "26 eigenvalues" in repr(found)
    assert len(repr(found)) < 200


def test_refusals():
    operator = counted(symmetric(30))
    for arguments, words in (
        ({"samples": 0}, "samples must be"),
        ({"steps": 0}, "steps must be"),
        ({"width": 0}, "above 0"),
        ({"width": math.nan}, "width"),
        ({"width": 1e-9}, "points"),
        ({"seed": None}, "seed"),
    ):
        with pytest.raises(ValueError, match=words):
            quadrature.spectrum(operator, **{"samples": 2, "steps": 3} | arguments)
    found = quadrature.spectrum(operator, 2, 3)
    with pytest.raises(ValueError, match="moments up to 5, not 6"):
        found.moment(6)
    with pytest.raises(TypeError, match="grid must be a tensor"):
        found.on([1.0], 0.1)
    with pytest.raises(ValueError, match="shape"):
        found.on(torch.zeros(2, 2), 0.1)
    with pytest.raises(TypeError, match="operator with products"):
        quadrature.spectrum(np.eye(3))
    with pytest.raises(FloatingPointError, match="not finite"):
        quadrature.spectrum(Operator(lambda v: v * math.inf, 3), 1, 2)


def test_many_eigenvalues_that_are_small_beside_the_largest_are_not_taken_for_rounding():
    n, steps = 20_000, 20
    values = torch.cat([torch.linspace(40, 50, 5), torch.linspace(-1e-3, 1e-3, n - 5)])
    found = quadrature.spectrum(Operator(lambda v: values * v, n), samples=2, steps=steps)
    assert found.nodes.shape == (2, steps)
    assert found.exact_moments == 2 * steps - 1
    assert ((found.nodes.abs() < 1e-3) & (found.weights > 1e-3)).sum(1).min() >= 10  # they are told apart
    assert found.share_above(5e-4).value == pytest.approx(0.25, abs=0.1)
