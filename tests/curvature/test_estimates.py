"""Trace and diagonal against dense matrices, and their standard errors against their own scatter."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lowland.curvature import Hessian, estimates
from lowland.curvature.lanczos import Operator
from tests.curvature.test_hessian import data, dense, small


def symmetric(n, seed=0, decay=0.0):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    values = torch.randn(n, generator=generator, dtype=torch.float64) * torch.arange(1, n + 1).double() ** -decay
    return q * values @ q.T


def counted(matrix):
    def product(v):
        product.count += 1
        return matrix @ v

    product.count = 0
    return Operator(product, len(matrix), matrix.dtype)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), samples=st.integers(1, 12), rank=st.integers(0, 12), seed=st.integers(0, 10**6))
def test_counts_products_and_is_exact_where_the_sketch_holds_everything(n, samples, rank, seed):
    rank = min(rank, n)
    matrix = symmetric(n, seed)
    low = matrix[:, : rank // 2] @ matrix[:, : rank // 2].T  # of rank below that of the sketch
    for of, exact in ((matrix, 2 * rank + samples >= n), (low, True)):
        operator = counted(of)
        found = estimates.trace(operator, samples, rank=rank, seed=seed)
        assert found.products == operator.product.count == min(n, 2 * rank + samples)
        if exact:
            assert float(found) == pytest.approx(of.trace().item(), abs=1e-10)
        assert (found.standard_error is None) == (samples == 1 and 2 * rank + samples < n)
    operator = counted(matrix)
    found = estimates.diagonal(operator, samples, seed=seed)
    assert found.products == operator.product.count == min(n, samples)
    assert found.value.shape == (n,)
    assert (found.standard_error is None) == (samples == 1 < n)
    if samples >= n:
        assert torch.allclose(found.value, matrix.diagonal())
        assert found.samples == 0


def test_the_trace_is_unbiased_and_its_error_that_of_repeated_estimates():
    matrix = symmetric(60, decay=0.7)
    found = [estimates.trace(counted(matrix), 8, seed=seed) for seed in range(300)]
    values = torch.tensor([float(each) for each in found])
    assert abs(values.mean().item() - matrix.trace().item()) < 4 * values.std().item() / math.sqrt(300)
    claimed = torch.tensor([each.standard_error for each in found]).square().mean().sqrt().item()
    assert claimed == pytest.approx(values.std().item(), rel=0.2)


def test_the_sketch_makes_the_error_smaller_where_eigenvalues_fall():
    matrix = symmetric(100, decay=1.5)
    exact = matrix.trace().item()

    def error(samples, rank):  # at 30 products
        each = [float(estimates.trace(counted(matrix), samples, rank=rank, seed=s)) - exact for s in range(40)]
        return torch.tensor(each).square().mean().sqrt().item()

    assert error(10, 10) < error(30, 0) / 3


def test_the_diagonal_has_the_variance_that_its_docstring_says():
    matrix = symmetric(40)
    found = [estimates.diagonal(counted(matrix), 20, seed=seed) for seed in range(200)]
    mean = torch.stack([each.value for each in found]).mean(0)
    variance = (matrix.square().sum(1) - matrix.diagonal().square()) / 20
    assert ((mean - matrix.diagonal()).abs() < 5 * (variance / 200).sqrt()).all()
    claimed = torch.stack([each.standard_error for each in found]).square().mean(0)
    assert torch.allclose(claimed, variance, rtol=0.2)


@pytest.mark.parametrize("chunked", [False, True])
def test_of_a_network(chunked):
    model, (x, y) = small(), data()
    exact = dense(model, F.cross_entropy, x, y)
    batches = [(x[:4], y[:4]), (x[4:], y[4:])] if chunked else [(x, y)]
    H = Hessian(model, F.cross_entropy, batches)
    whole = H.trace(samples=30)
    assert whole.standard_error == 0.0
    assert float(whole) == pytest.approx(exact.trace().item())
    assert torch.allclose(H.diagonal(samples=len(exact)).value, exact.diagonal())
    part = H.trace(samples=4, rank=5)
    assert part.products == 14
    assert abs(float(part) - exact.trace().item()) < 5 * part.standard_error
    assert repr(part).startswith("Sampled(")
    entries = H.diagonal(samples=20)
    assert ((entries.value - exact.diagonal()).abs() < 6 * entries.standard_error + 1e-9).all()
    assert repr(entries) == "Sampled(tensor of shape (26,), 20 samples, 20 products)"
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_changes_is_refused():
    model, (x, y) = small(), data()
    generator = torch.Generator().manual_seed(0)

    def noisy(output, y):
        return F.cross_entropy(output + torch.randn(output.shape, generator=generator, dtype=output.dtype), y)

    with pytest.raises(ValueError, match="not a function of the weights alone"):
        Hessian(model, noisy, [(x, y)]).trace(samples=2)


def test_a_product_that_is_wrong_warns():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 3 * x.detach() ** 2

    model, (x, y) = small(), data()
    loss = lambda output, y: F.cross_entropy(Once.apply(output), y)  # noqa: E731
    with pytest.warns(UserWarning, match="the products are wrong"):
        Hessian(model, loss, [(x, y)]).diagonal(samples=2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda o: estimates.trace(o, 0), ValueError, "samples must be an integer of at least 1"),
        (lambda o: estimates.trace(o, 2.5), ValueError, "samples"),
        (lambda o: estimates.trace(o, 3, rank=31), ValueError, "between 0 and the dimension 30"),
        (lambda o: estimates.trace(o, 3, seed="a"), ValueError, "seed"),
        (lambda o: estimates.diagonal(o, -1), ValueError, "samples"),
        (lambda o: estimates.trace(torch.eye(3)), TypeError, "operator with products"),
        (lambda o: estimates.diagonal(Operator(None, 3)), TypeError, "product is no function"),
        (lambda o: estimates.trace(Operator(lambda v: v / 0, 30)), FloatingPointError, "not finite"),
        (lambda o: estimates.trace(Operator(lambda v: v, 0)), ValueError, "dimension"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call(counted(symmetric(30)))
