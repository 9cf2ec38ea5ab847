"""Many operators in step against each alone: the same pairs, after as many products."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.curvature.lockstep import principal_eigenpairs
from tests.curvature.test_lanczos import eigenpairs, symmetric


def stacked(matrices):
    """The product with many matrices, and how often each was asked for."""

    def product(vectors, active):
        for i in active:
            product.counts[i] += 1
        assert active == sorted(active)
        return torch.stack([matrices[i] @ v for i, v in zip(active, vectors, strict=True)])

    product.counts = [0] * len(matrices)
    return product


def assert_same(found, expected):
    assert (found.products, found.converged) == (expected.products, expected.converged)
    scale = expected.values.abs().item()
    assert torch.allclose(found.values, expected.values, rtol=1e-10, atol=1e-14)
    assert torch.allclose(found.residuals, expected.residuals, rtol=1e-8, atol=1e-10 * scale + 1e-14)
    assert found.vectors.shape == expected.vectors.shape


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    count=st.integers(1, 5),
    tol=st.sampled_from([1e-1, 1e-3, 1e-6]),
    basis=st.sampled_from([3, 8, 20, 64]),
    seed=st.integers(0, 10**6),
    warm=st.integers(0, 2),
)
def test_is_each_alone(n, count, tol, basis, seed, warm):
    matrices = [symmetric(n, seed + i, decay=0.3 * i) for i in range(count)]
    starts = [torch.linalg.eigh(matrix)[1][:, -1] if i % 3 < warm else None for i, matrix in enumerate(matrices)]
    options = {"tol": tol, "max_basis": max(basis, min(n, 3)), "max_products": 300, "dtype": torch.float64}
    product = stacked(matrices)
    together = principal_eigenpairs(product, n, starts, **options)
    for matrix, start, found in zip(matrices, starts, together, strict=True):
        assert_same(found, eigenpairs(lambda v, m=matrix: m @ v, n, start=start, **options))
    assert product.counts == [found.products for found in together]


def test_restarts_and_ends_at_different_times():
    spectra = [torch.linspace(-1, 1, 200).double() ** power for power in (1, 9)]
    spectra.append(torch.cat([torch.tensor([10.0, 9.9, -9.8]), torch.zeros(197)]).double())
    options = {"tol": 1e-5, "max_basis": 6, "dtype": torch.float64}
    together = principal_eigenpairs(stacked([d.diag() for d in spectra]), 200, [None] * 3, **options)
    for d, found in zip(spectra, together, strict=True):
        assert_same(found, eigenpairs(lambda v, d=d: d * v, 200, **options))
    assert len({found.products for found in together}) == 3
    assert max(found.products for found in together) > 12


def test_invariant_subspaces_of_some():
    rank_one = torch.zeros(30, 30, dtype=torch.float64)
    rank_one[0, 0] = 3
    matrices = [torch.zeros(30, 30, dtype=torch.float64), symmetric(30), rank_one, torch.eye(30).double()]
    together = principal_eigenpairs(stacked(matrices), 30, [None] * 4, 1e-9, dtype=torch.float64)
    for matrix, found in zip(matrices, together, strict=True):
        assert_same(found, eigenpairs(lambda v, m=matrix: m @ v, 30, tol=1e-9, dtype=torch.float64))


def test_one_that_is_not_finite_leaves_the_others_alone():
    matrices = [symmetric(40, seed) for seed in range(4)]
    good = stacked(matrices)

    def product(vectors, active):
        images = good(vectors, active)
        if 2 in active and good.counts[2] == 5:
            images[active.index(2), 7] = float("nan")
        if 0 in active:
            images[active.index(0)] = float("inf")
        return images

    together = principal_eigenpairs(product, 40, [None] * 4, dtype=torch.float64)
    assert good.counts[0] == 1
    assert good.counts[2] == 5
    for i, (matrix, found) in enumerate(zip(matrices, together, strict=True)):
        if i % 2 == 0:
            assert isinstance(found, FloatingPointError)
        else:
            assert_same(found, eigenpairs(lambda v, m=matrix: m @ v, 40, dtype=torch.float64))


def test_gives_up_honestly_and_nothing_is_nothing():
    matrices = [symmetric(300), 5 * torch.eye(300).double()]
    together = principal_eigenpairs(stacked(matrices), 300, [None] * 2, 1e-12, max_products=10, dtype=torch.float64)
    assert [found.converged for found in together] == [False, True]
    assert [found.products for found in together] == [10, 8]
    for matrix, found in zip(matrices, together, strict=True):
        recomputed = (matrix @ found.vectors[0] - found.values * found.vectors[0]).norm()
        assert found.residuals.item() == pytest.approx(recomputed.item(), abs=1e-12)
    assert principal_eigenpairs(stacked([]), 5, []) == []


@pytest.mark.parametrize("wrong", [{"tol": -1.0}, {"tol": float("nan")}, {"max_basis": 2}, {"max_products": 0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=r"tol must be a number|needs tol >= 0"):
        principal_eigenpairs(lambda v, _: v, 5, [None], **wrong)
    with pytest.raises(ValueError, match="not zero"):
        principal_eigenpairs(lambda v, _: v, 5, [None, torch.zeros(5)])
