"""Gauss–Newton products against dense JᵀAJ in float64, the Fisher information by its definition, and curvlinops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.nn import functional as F

from lowland.curvature import GaussNewton, Hessian
from lowland.models import Transformer
from tests.curvature.test_hessian import data, dense, small


def outputs_of(model, x):
    names = [name for name, _ in model.named_parameters()]
    params = list(model.parameters())
    sizes = [p.numel() for p in params]

    def outputs(flat):
        values = {n: v.view_as(p) for n, v, p in zip(names, flat.split(sizes), params, strict=True)}
        return torch.func.functional_call(model, values, (x,))

    return outputs, torch.cat([p.detach().reshape(-1) for p in params])


def dense_gauss_newton(model, loss_fn, x, y):
    outputs, flat = outputs_of(model, x)
    out = outputs(flat).detach()
    jacobian = torch.autograd.functional.jacobian(outputs, flat).reshape(out.numel(), -1)
    bend = torch.autograd.functional.hessian(lambda o: loss_fn(o, y), out).reshape(out.numel(), out.numel())
    return jacobian.T @ bend @ jacobian


LOSSES = {
    "cross-entropy": F.cross_entropy,
    "squared": lambda out, y: F.mse_loss(out, F.one_hot(y, 2).to(out)),
    "smoothed": lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1),
    "linear": lambda out, y: out.mean(),
}


@settings(max_examples=15, deadline=None)
@given(
    widths=st.lists(st.integers(1, 4), max_size=2), n=st.integers(1, 6), name=st.sampled_from(sorted(LOSSES)),
    cut=st.integers(0, 6), k=st.integers(1, 3),
)  # fmt: skip
def test_products(widths, n, name, cut, k):
    torch.manual_seed(0)
    layers = []
    for before, after in zip([3, *widths], [*widths, 2], strict=True):
        layers += [nn.Linear(before, after), nn.Tanh()]
    model, (x, y) = nn.Sequential(*layers[:-1]).double(), data(n)
    batches = [(x, y)] if cut in (0, n) or cut > n else [(x[:cut], y[:cut]), (x[cut:], y[cut:])]
    G = GaussNewton(model, LOSSES[name], batches)
    exact = dense_gauss_newton(model, LOSSES[name], x, y)
    vectors = torch.randn(len(exact), k, dtype=torch.float64)
    assert torch.allclose(G @ vectors, exact @ vectors, atol=1e-10)
    assert torch.allclose(G @ vectors[:, 0], exact @ vectors[:, 0], atol=1e-10)


def test_is_the_fisher_information_of_cross_entropy():
    model, (x, y) = small(), data()
    G = GaussNewton(model, F.cross_entropy, [(x, y)])
    fisher = torch.zeros(G.shape, dtype=torch.float64)
    outputs, flat = outputs_of(model, x)
    chances = outputs(flat).detach().softmax(1)
    for i in range(len(x)):
        for label in range(2):  # drawn from the model
            score = torch.autograd.functional.jacobian(lambda w, i=i, j=label: outputs(w)[i].log_softmax(0)[j], flat)
            fisher += chances[i, label] * torch.outer(score, score) / len(x)
    assert torch.allclose(G @ torch.eye(len(flat), dtype=torch.float64), fisher, atol=1e-12)


def test_eigenpairs_trace_diagonal_and_spectrum():
    model, (x, y) = small(), data()
    G = GaussNewton(model, F.cross_entropy, [(x, y)])
    exact = dense_gauss_newton(model, F.cross_entropy, x, y)
    values = torch.linalg.eigvalsh(exact).flip(0)
    assert torch.allclose(G.eigenpairs(k=3, tol=1e-8).values, values[:3])
    assert torch.allclose(G.extremes(2, tol=1e-8, which="largest").values, values[:2])
    assert float(G.trace(samples=30)) == pytest.approx(exact.trace().item())
    assert torch.allclose(G.diagonal(samples=26).value, exact.diagonal())
    spectrum = G.spectrum(2, 26)
    assert spectrum.nodes.min() > -1e-12
    with pytest.warns(UserWarning, match="not certified"):
        G.eigenpairs(k=3, tol=1e-12, max_products=4)


def test_scipy_finds_the_same():
    model, (x, y) = small(), data()
    for kind in (Hessian, GaussNewton):
        operator = kind(model, F.cross_entropy, [(x, y)])
        there = operator.to_scipy()
        assert there.shape == operator.shape
        assert there.dtype == "float64"
        found = eigsh(there, k=2, which="LA", return_eigenvectors=False)
        ours = operator.eigenpairs(2, tol=1e-8, which="largest").values
        assert sorted(found) == pytest.approx(sorted(ours.tolist()))
        v = torch.randn(operator.shape[0], 2, dtype=torch.float64)
        assert torch.equal(torch.as_tensor(there @ v.numpy()), operator @ v)
        v = torch.complex(v, v.flip(0))
        torch.testing.assert_close(
            torch.as_tensor(there @ v.numpy()), torch.complex(operator @ v.real, operator @ v.imag)
        )
    assert Hessian(small(torch.float32), F.cross_entropy, [(x.float(), y)]).to_scipy().dtype == "float32"


def test_a_transformer_and_outputs_that_are_several():
    torch.manual_seed(0)
    model = Transformer(7, 4, layers=1, width=4, heads=2, key_size=2).double()
    x = torch.randint(7, (2, 4))
    loss = lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten())  # noqa: E731
    G, exact = GaussNewton(model, loss, [(x, x)]), dense_gauss_newton(model, loss, x, x)
    v = torch.randn(len(exact), dtype=torch.float64)
    assert torch.allclose(G @ v, exact @ v, atol=1e-10)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x):
            out = self.net(x)
            return {"a": out[:, :1], "b": [out[:, 1:], None, x]}

    two, (x, y) = Two(), data()
    G = GaussNewton(two, lambda out, y: F.cross_entropy(torch.cat([out["a"], out["b"][0]], 1), y), [(x, y)])
    exact = dense_gauss_newton(two.net, F.cross_entropy, x, y)
    v = torch.randn(len(exact), dtype=torch.float64)
    assert torch.allclose(G @ v, exact @ v, atol=1e-12)


def test_refusals():
    model, (x, y) = small(), data()
    v = torch.ones(26, dtype=torch.float64)
    penalty = lambda out, y: F.cross_entropy(out, y) + sum(p.square().sum() for p in model.parameters())  # noqa: E731
    with pytest.raises(ValueError, match="beside the model's outputs"):
        GaussNewton(model, penalty, [(x, y)]) @ v
    with pytest.raises(ValueError, match="has no gradient"):
        GaussNewton(model, lambda out, y: out.detach().mean(), [(x, y)]) @ v
    generator = torch.Generator().manual_seed(0)
    noisy = lambda out, y: F.cross_entropy(out * torch.rand(1, generator=generator).double(), y)  # noqa: E731
    with pytest.raises(ValueError, match="not a function of the weights alone"):
        GaussNewton(model, noisy, [(x, y)]).trace(2)
    with pytest.raises(ValueError, match="complex"):
        GaussNewton(nn.Linear(3, 2).to(torch.complex128), lambda out, y: out.abs().sum(), [(x + 0j, y)]) @ torch.ones(
            16
        )
    with pytest.raises(AttributeError, match="can't be assigned"):
        GaussNewton(model, F.cross_entropy, [(x, y)]).shape = (1, 1)


def test_equals_curvlinops():
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed: pip install '.[benchmarks]'")
    model, (x, y) = small(), data()
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    v = torch.randn(26, 2, dtype=torch.float64)
    params = list(model.parameters())
    theirs = {Hessian: curvlinops.HessianLinearOperator, GaussNewton: curvlinops.GGNLinearOperator}
    for ours, other in theirs.items():
        operator = other(model, nn.CrossEntropyLoss(), params, batches)
        assert torch.allclose(ours(model, F.cross_entropy, batches) @ v, operator @ v, atol=1e-12)
    assert torch.allclose(dense(model, F.cross_entropy, x, y) @ v, Hessian(model, F.cross_entropy, batches) @ v)
