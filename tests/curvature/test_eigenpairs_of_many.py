"""Many operators in step against each alone: the same pairs, after as many products."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.curvature.lanczos import eigenpairs_of_many
from lowland.curvature.wanted import Wanted
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
    scale = expected.values.abs().max().item()
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
    k=st.integers(1, 3),
    which=st.sampled_from(["magnitude", "largest", "smallest", "ends"]),
)
def test_is_each_alone(n, count, tol, basis, seed, warm, k, which):
    k = min(k, n)
    which = "largest" if 2 * k > n else which
    matrices = [symmetric(n, seed + i, decay=0.3 * i) for i in range(count)]
    starts = [torch.linalg.eigh(matrix)[1][:, -1] if i % 3 < warm else None for i, matrix in enumerate(matrices)]
    options = {"tol": tol, "max_basis": max(basis, min(n, 2 * k + 2)), "max_products": 300, "k": k, "which": which}
    product = stacked(matrices)
    together = eigenpairs_of_many(product, n, starts, Wanted(**options), torch.float64)
    for matrix, start, found in zip(matrices, starts, together, strict=True):
        assert_same(found, eigenpairs(lambda v, m=matrix: m @ v, n, start=start, dtype=torch.float64, **options))
    assert product.counts == [found.products for found in together]


def test_restarts_and_ends_at_different_times():
    spectra = [torch.linspace(-1, 1, 200).double() ** power for power in (1, 9)]
    spectra.append(torch.cat([torch.tensor([10.0, 9.9, -9.8]), torch.zeros(197)]).double())
    options = {"tol": 1e-5, "max_basis": 6}
    product = stacked([d.diag() for d in spectra])
    together = eigenpairs_of_many(product, 200, [None] * 3, Wanted(**options), torch.float64)
    for d, found in zip(spectra, together, strict=True):
        assert_same(found, eigenpairs(lambda v, d=d: d * v, 200, dtype=torch.float64, **options))
    assert len({found.products for found in together}) == 3
    assert max(found.products for found in together) > 12


def test_invariant_subspaces_of_some():
    rank_one = torch.zeros(30, 30, dtype=torch.float64)
    rank_one[0, 0] = 3
    matrices = [torch.zeros(30, 30, dtype=torch.float64), symmetric(30), rank_one, torch.eye(30).double()]
    together = eigenpairs_of_many(stacked(matrices), 30, [None] * 4, Wanted(tol=1e-9), torch.float64)
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

    together = eigenpairs_of_many(product, 40, [None] * 4, Wanted(), torch.float64)
    assert good.counts[0] == 1
    assert good.counts[2] == 5
    for i, (matrix, found) in enumerate(zip(matrices, together, strict=True)):
        if i % 2 == 0:
            assert isinstance(found, FloatingPointError)
        else:
            assert_same(found, eigenpairs(lambda v, m=matrix: m @ v, 40, dtype=torch.float64))


def test_gives_up_honestly_and_nothing_is_nothing():
    matrices = [symmetric(300), 5 * torch.eye(300).double()]
    wanted = Wanted(tol=1e-12, max_products=10)
    together = eigenpairs_of_many(stacked(matrices), 300, [None] * 2, wanted, torch.float64)
    assert [found.converged for found in together] == [False, True]
    assert [found.products for found in together] == [10, 8]
    for matrix, found in zip(matrices, together, strict=True):
        recomputed = (matrix @ found.vectors[0] - found.values * found.vectors[0]).norm()
        assert found.residuals.item() == pytest.approx(recomputed.item(), abs=1e-12)
    assert eigenpairs_of_many(stacked([]), 5, [], Wanted()) == []


def test_a_start_of_zeros():
    with pytest.raises(ValueError, match="not zero"):
        eigenpairs_of_many(lambda v, _: v, 5, [None, torch.zeros(5)], Wanted())
