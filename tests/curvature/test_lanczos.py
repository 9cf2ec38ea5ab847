"""Eigenpairs against dense linear algebra and against SciPy's ARPACK, with residuals that are true."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh

from lowland.curvature import lanczos
from lowland.curvature.wanted import Wanted


def eigenpairs(product, n, k=1, tol=1e-3, *, dtype=torch.float32, **options):
    return lanczos.eigenpairs(lanczos.Operator(product, n, dtype), Wanted(k, tol, **options))


def symmetric(n, seed=0, decay=0.0):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    values = torch.randn(n, generator=generator, dtype=torch.float64) * torch.arange(1, n + 1).double() ** -decay
    return q * values @ q.T


def wanted(matrix, k, which):
    values = torch.linalg.eigvalsh(matrix)
    keys = {"magnitude": -values.abs(), "largest": -values, "smallest": values}
    return values[torch.argsort(keys[which])[:k]]


def counting(matrix):
    def product(v):
        product.count += 1
        return matrix @ v

    product.count = 0
    return product


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    k=st.integers(1, 5),
    which=st.sampled_from(["magnitude", "largest", "smallest"]),
    basis=st.sampled_from([8, 20, 64]),
    seed=st.integers(0, 10**6),
)
def test_equals_dense_linear_algebra(n, k, which, basis, seed):
    k = min(k, n)
    matrix = symmetric(n, seed)
    product = counting(matrix)
    pairs = eigenpairs(
        product, n, k, 1e-9, which=which, dtype=torch.float64, max_basis=max(basis, k + 2), max_products=5000
    )
    assert pairs.products == product.count
    if max(basis, k + 2) >= min(2 * k + 4, n):
        assert pairs.converged
        assert torch.allclose(pairs.values, wanted(matrix, k, which), atol=1e-7)
    else:  # restarts from so little may stall, or settle on a neighbour: what a residual promises is some eigenvalue
        every = torch.linalg.eigvalsh(matrix)
        assert ((pairs.values[:, None] - every).abs().amin(1) <= pairs.residuals + 1e-12).all()
    assert torch.allclose(pairs.vectors @ pairs.vectors.T, torch.eye(k, dtype=torch.float64), atol=1e-9)
    recomputed = (pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors).norm(dim=1)
    assert torch.allclose(recomputed, pairs.residuals, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tol", [1e-1, 1e-3])
def test_the_residual_bounds_the_distance_to_an_eigenvalue_and_is_true(dtype, tol):
    for seed in range(5):
        matrix = symmetric(200, seed, decay=0.7).to(dtype)
        pairs = eigenpairs(lambda v, m=matrix: m @ v, 200, 3, tol, dtype=dtype)
        exact = matrix.double()
        values, vectors = pairs.values.double(), pairs.vectors.double()
        recomputed = (vectors @ exact - values[:, None] * vectors).norm(dim=1)
        slack = 1e-6 if dtype == torch.float32 else 1e-13
        assert torch.allclose(recomputed, pairs.residuals.double(), rtol=1e-3, atol=slack)
        spectrum = torch.linalg.eigvalsh(exact)
        distances = (spectrum[None] - values[:, None]).abs().min(dim=1).values
        assert (distances <= recomputed + slack).all()
        assert (pairs.residuals <= tol * values.abs().max()).all()


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-6])
def test_never_more_products_than_arpack(k, decay, tol):
    for seed in range(3):
        matrix = symmetric(300, seed, decay)
        ours, theirs = counting(matrix), counting(matrix.numpy())
        generator = torch.Generator().manual_seed(seed)
        same_start = torch.randn(300, generator=generator.clone_state(), dtype=torch.float64).numpy()
        pairs = eigenpairs(ours, 300, k, tol, dtype=torch.float64, max_products=2000, generator=generator)
        operator = LinearOperator((300, 300), matvec=theirs, dtype=float)
        values = eigsh(operator, k=k, tol=tol, v0=same_start, return_eigenvectors=False)
        assert pairs.products <= theirs.count
        assert abs(pairs.values[0].abs().item() - abs(values).max()) <= tol * abs(values).max()


def test_a_warm_start_saves_products_and_cannot_hide_a_larger_eigenvalue():
    matrix = symmetric(400, decay=0.1)
    cold = eigenpairs(lambda v: matrix @ v, 400, 1, 1e-3, dtype=torch.float64)
    nearby = matrix + 1e-3 * symmetric(400, seed=1)
    warm = eigenpairs(lambda v: nearby @ v, 400, 1, 1e-3, start=cold.vectors[0], dtype=torch.float64)
    assert warm.converged
    assert 8 <= warm.products <= cold.products * 2 / 3
    # What was the principal eigenvector is now the second one: an exact eigenvector, and yet not taken for it.
    diagonal = torch.cat([torch.tensor([1.0, 0.8]), torch.linspace(-0.5, 0.5, 398)]).double()
    found = eigenpairs(lambda v: diagonal * v, 400, start=torch.eye(400)[1], dtype=torch.float64)
    assert found.products >= 8
    assert found.values[0].item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("top", [[10, 9.8], [10, 9.5, -9.8]])
def test_neighbours_and_the_other_end_are_not_taken_for_the_extreme_one(top):
    bulk = 0.1 * torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    diagonal = torch.cat([torch.tensor(top, dtype=torch.float64), bulk])
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        pairs = eigenpairs(lambda v: diagonal * v, len(diagonal), dtype=torch.float64, generator=generator)
        assert pairs.values.item() == pytest.approx(10, rel=1e-3)


def test_multiple_and_zero_eigenvalues():
    diagonal = torch.tensor([3.0, 3.0, 3.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    pairs = eigenpairs(lambda v: diagonal * v, 6, 6, 1e-9, dtype=torch.float64)
    assert torch.allclose(pairs.values, diagonal, atol=1e-9)
    pairs = eigenpairs(lambda v: diagonal * v, 6, 4, 1e-9, dtype=torch.float64)
    assert pairs.values[0].item() == pytest.approx(3)  # how many copies it finds is not promised
    images = diagonal * pairs.vectors
    assert torch.allclose(images, pairs.values[:, None] * pairs.vectors, atol=1e-9)
    zero = eigenpairs(lambda v: 0 * v, 6, 2, 1e-9, dtype=torch.float64)
    assert zero.values.tolist() == [0.0, 0.0]
    assert zero.converged


def test_gives_up_honestly():
    matrix = symmetric(300)
    pairs = eigenpairs(lambda v: matrix @ v, 300, 2, 1e-12, dtype=torch.float64, max_products=10)
    assert not pairs.converged
    assert pairs.products == 10
    recomputed = (pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors).norm(dim=1)
    assert torch.allclose(recomputed, pairs.residuals)
    one = eigenpairs(lambda v: matrix @ v, 300, 2, 1e-12, dtype=torch.float64, max_products=1)
    assert not one.converged


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": 6}, {"tol": -1.0}, {"tol": float("nan")}, {"which": "LM"}, {"max_basis": 2, "k": 2},
     {"max_products": 0}, {"start": torch.zeros(5)}, {"start": torch.full((5,), float("nan"))}],
)  # fmt: skip
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=r"k must|tol|which|basis|products|start"):
        eigenpairs(lambda v: v, 5, **{"k": 1, **wrong})


def test_a_product_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="not finite"):
        eigenpairs(lambda v: v / 0, 5)


def test_a_repr_shows_values_and_no_vectors():
    pairs = eigenpairs(lambda v: torch.arange(1.0, 41.0) * v, 40, 7, 1e-3)
    shown = repr(pairs)
    assert shown.startswith("Eigenpairs(40")
    assert "and 2 more" in shown
    assert "tensor" not in shown
    assert len(shown) < 200


def test_so_few_products_certify_nothing_unless_they_are_all():
    """A start near the second eigenvector may have a small residual there before the first shows."""
    diagonal = torch.cat([torch.tensor([1.0, 0.9], dtype=torch.float64), torch.linspace(0.0, 0.5, 398).double()])
    few = eigenpairs(lambda v: diagonal * v, 400, 1, 0.2, start=torch.eye(400)[1], dtype=torch.float64, max_products=3)
    assert few.products == 3
    assert not few.converged
    assert "so few products (3)" in few.reason
    assert eigenpairs(lambda v: diagonal[:3] * v, 3, 1, 0.2, dtype=torch.float64, max_products=3).converged
