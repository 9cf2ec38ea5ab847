"""Batch norm with a second derivative of our own, against torch's."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import Hessian
from lowland.curvature.batch_norm import batch_norm
from lowland.curvature.second_order import differentiable_twice

SHAPES = [(5, 3), (4, 3, 5), (2, 3, 4, 2), (2, 3, 2, 2, 3)]


def tensors(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in (shape, shape[1], shape[1])
    )
    weight[1] = 0.0
    return [tensor.requires_grad_() for tensor in (3 * x + 2, weight, bias)]


def derivatives(norm, given, eps):
    """The output, its gradients, theirs, and the statistics that are kept."""
    x, weight, bias = given
    running = torch.zeros(x.shape[1], dtype=x.dtype), torch.ones(x.shape[1], dtype=x.dtype)
    y = norm(x, *running, weight=weight, bias=bias, training=True, momentum=0.3, eps=eps)
    first = torch.autograd.grad(y.cos().sum(), given, create_graph=True)
    second = torch.autograd.grad(sum(piece.sin().sum() for piece in first), given)
    return [y, *first, *second, *running]


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_derivatives_up_to_the_second_are_torchs(shape, eps):
    ours, theirs = (derivatives(norm, tensors(shape), eps) for norm in (batch_norm, F.batch_norm))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_second_derivative_is_that_of_differences(shape):
    given = tensors(shape)
    assert torch.autograd.gradgradcheck(lambda x, w, b: batch_norm(x, None, None, w, b, True), given)


def test_a_channel_that_is_constant():
    given = tensors((4, 3, 2, 2))
    with torch.no_grad():
        given[0][:, 0] = 1.5
    for mine, other in zip(derivatives(batch_norm, given, 1e-5), derivatives(F.batch_norm, given, 1e-5), strict=True):
        assert torch.allclose(mine, other, rtol=1e-7, atol=1e-7 * max(1.0, other.abs().max().item()))


def test_where_it_does_not_apply_it_is_torchs():
    x, weight, bias = tensors((4, 3, 2, 2))
    mean, var = torch.randn(3).double(), torch.rand(3).double()
    for arguments in (
        (mean, var, weight, bias, False),
        (None, None, None, None, True),
        (None, None, weight, None, True),
    ):
        assert torch.equal(batch_norm(x, *arguments), F.batch_norm(x, *arguments))
    half = x.to(torch.bfloat16)
    given = (None, None, weight.float(), bias.float(), True)
    assert torch.equal(batch_norm(half, *given), F.batch_norm(half, *given))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_norm(x[:1, :, 0, 0], None, None, weight, bias, True)
    with torch.autograd.graph.save_on_cpu():
        assert type(batch_norm(x, None, None, weight, bias, True).grad_fn).__name__ == "NativeBatchNormBackward0"
    mapped = torch.vmap(lambda one: batch_norm(x, None, None, one, bias, True))(torch.stack([weight, 2 * weight]))
    assert torch.allclose(mapped[0], F.batch_norm(x, None, None, weight, bias, True))


def network(dtype):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.BatchNorm1d(16, momentum=None)]
    return nn.Sequential(*layers, nn.Linear(16, 2)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_go_by_it(dtype):
    model = network(dtype)
    x, y = torch.randn(7, 3, 4, 4, dtype=dtype), torch.arange(7) % 2
    hessian = Hessian(model, F.cross_entropy, [(x, y)])
    with differentiable_twice(model):
        taken = F.batch_norm(x, None, None, *tensors((1, 3), dtype)[1:], True).grad_fn
    assert type(taken).__name__ == "_NormBackward"
    vector = torch.randn(hessian.shape[0], dtype=dtype)
    double = Hessian(model.double(), F.cross_entropy, [(x.double(), y)]).objective
    ahead, behind = (double.loss_and_gradient(sign * 1e-6 * vector.double())[1] for sign in (1, -1))
    model.to(dtype)
    exact = (ahead - behind) / 2e-6
    assert (hessian @ vector - exact).norm() <= (1e-6 if dtype == torch.float64 else 1e-4) * exact.norm()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert hessian.eigenpairs(tol=1e-3).converged
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
