"""Half precision and complex parameters: against exact values, and against the same network in real numbers."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import (
    Hessian,
    Monitor,
    Objective,
    along_line,
    average_sharpness,
    m_sharpness,
    sharpness,
    stability,
    stability_of_stack,
)

RHO = 0.25
HALF = [torch.bfloat16, torch.float16]


# Half precision.


class Exact(nn.Module):
    """Its loss is exact in any type: what the batch says, and a parabola in weights that are 0."""

    def __init__(self, dtype):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=dtype))

    def forward(self, x):
        return x[0, 0] + (self.w * x[0, 1:]).sum() + self.w.square().sum() / 2


def as_it_is(out, y):
    return out


def many(dtype, batches=600, size=128):
    """As many examples as float16 can't count, and more than bfloat16 can add up."""
    generator = torch.Generator().manual_seed(0)
    x = (1 + torch.randint(0, 32, (batches, 1, 3), generator=generator) / 128).to(dtype)  # exact in either type
    return [(batch.expand(size, 3), None) for batch in x], x.double().mean((0, 1))


@pytest.mark.parametrize("dtype", HALF)
def test_losses_and_gradients_are_added_up_in_single_precision(dtype):
    batches, exact = many(dtype)
    model = Exact(dtype)
    objective = Objective(model, as_it_is, batches)
    loss, gradient = objective.loss_and_gradient()
    for found in (loss, objective.loss()):
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact[0].item(), rel=1e-5)
    assert gradient.tolist() == pytest.approx(exact[1:].tolist(), rel=1e-5)


@pytest.mark.parametrize("dtype", HALF)
def test_instruments_of_many_batches_in_half_precision(dtype):
    batches, exact = many(dtype, 70, 1024)
    model = Exact(dtype)
    hessian = Hessian(model, as_it_is, batches)
    assert (hessian @ torch.tensor([1.0, -2.0])).tolist() == pytest.approx([1, -2], rel=1e-5)
    assert hessian.eigenpairs(k=2, tol=0.05).values.tolist() == pytest.approx([1, 1], rel=1e-2)
    measured = stability(model, as_it_is, batches, lr=0.1, rho=0.0, tol=0.05)
    record = Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, as_it_is, batches, tol=0.05).check()
    for loss, norm in ((measured.loss, measured.hessian_norm), (record["loss"], record["hessian_norm"])):
        assert loss == pytest.approx(exact[0].item(), rel=1e-5)
        assert norm == pytest.approx(1, rel=1e-2)
    # ρ‖g‖ + ρ²/2 of each batch, and of all together; the loss of a batch is rounded as its type is.
    slope = torch.stack([x[0, 1:].double() for x, _ in batches]).norm(dim=1).mean().item()
    rounded = 2 * torch.finfo(dtype).eps
    found = sharpness(model, as_it_is, batches, RHO)
    assert found.value == pytest.approx(RHO * slope + RHO**2 / 2, abs=rounded)
    together = m_sharpness(model, as_it_is, batches, RHO)
    assert together == pytest.approx(RHO * exact[1:].norm().item() + RHO**2 / 2, abs=rounded)
    other = Exact(dtype)
    nn.init.constant_(other.w, 0.5)
    line = along_line(model, other, as_it_is, batches, [0, 1])
    rise = 0.5 * exact[1:].sum().item() + 0.25
    assert line.loss == pytest.approx([exact[0].item(), exact[0].item() + rise], rel=1e-3)


def test_a_loss_and_an_average_that_bfloat16_gets_wrong():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).bfloat16()
    x, y = torch.randn(1024, 16).bfloat16(), torch.arange(1024) % 4
    double = copy.deepcopy(model).double()
    batches = list(zip(x.split(2), y.split(2), strict=True))
    exact = F.cross_entropy(double(x.double()), y).item()
    assert Objective(model, F.cross_entropy, batches).loss().item() == pytest.approx(exact, rel=1e-3)
    few, doubled = batches[:16], [(x.double(), y) for x, y in batches[:16]]
    found = average_sharpness(model, F.cross_entropy, few, 0.1, draws=10)
    expected = average_sharpness(double, F.cross_entropy, doubled, 0.1, draws=10)
    assert abs(found.value - expected.value) < 4 * (found.standard_error + expected.standard_error)
    assert found.value > 0


@pytest.mark.parametrize("dtype", HALF)
def test_a_displacement_too_small_for_the_type_is_said_once(dtype):
    model = nn.Linear(64, 4).to(dtype)
    x, y = torch.randn(8, 64).to(dtype), torch.arange(8) % 4
    pieces = list(zip(x.split(2), y.split(2), strict=True))
    for measure in (
        lambda: sharpness(model, F.cross_entropy, pieces, 1e-3),
        lambda: average_sharpness(model, F.cross_entropy, pieces, 1e-5),
        lambda: stability(model, F.cross_entropy, pieces, lr=0.1, rho=1e-3, tol=0.2),
    ):
        with pytest.warns(
            UserWarning, match=r"too coarse for a displacement of \S+: rounding changes it by \d+%"
        ) as seen:
            measure()
        assert sum("too coarse for a" in str(one.message) for one in seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sharpness(model, F.cross_entropy, pieces, 2.0)


def test_products_of_half_precision_are_not_certified_beyond_what_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).bfloat16()
    x, y = torch.randn(100, 16).bfloat16(), torch.arange(100) % 4
    hessian = Hessian(model, F.cross_entropy, [(x, y)])
    with pytest.warns(UserWarning, match="not certified"):
        pairs = hessian.eigenpairs(tol=1e-4, max_products=20)
    exact = Hessian(copy.deepcopy(model).double(), F.cross_entropy, [(x.double(), y)])
    vector = pairs.vectors[0].double()
    residual = (exact @ vector - pairs.values[0].double() * vector).norm().item()
    assert pairs.residuals[0].item() == pytest.approx(residual, rel=0.05)
    assert hessian.eigenpairs(tol=0.1).converged


def test_statistics_of_batch_norm_in_half_precision():
    # Of 600 batches the running mean stands still in bfloat16 once 1/n of a difference is below its last digit.
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Flatten()).bfloat16()
    x = torch.linspace(-1, 1, 600)[:, None, None] + torch.tensor([-1.0, 1.0])[:, None].expand(2, 2)
    x = x.bfloat16()
    found = along_line(model, model, lambda out, y: out.mean(), [(x[0], None)], [0], statistics=x)
    mean = x.double().mean((0, 1))
    variance = x.double().var(1).mean(0)
    expected = ((x[0].double() - mean) / (variance + 1e-5).sqrt()).mean().item()
    assert found.loss[0] == pytest.approx(expected, rel=0.02)


# Complex parameters.


class Complex(nn.Module):
    """A network with complex weights, or the same with their real and imaginary parts."""

    def __init__(self, real, dtype=torch.complex128):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        first, last = (torch.randn(*shape, dtype=dtype, generator=generator) for shape in ((3, 5), (5, 2)))
        self.scale = nn.Parameter(torch.tensor([0.7], dtype=dtype.to_real()))
        self.first, self.last = (nn.Parameter(torch.view_as_real(w).clone() if real else w) for w in (first, last))
        self.real = real

    def forward(self, x):
        first, last = (torch.view_as_complex(w) if self.real else w for w in (self.first, self.last))
        z = torch.tanh(x.to(first.dtype) @ first) @ last
        return self.scale * z.abs()


def pair(dtype=torch.complex128):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(9, 3, dtype=dtype.to_real(), generator=generator)
    return Complex(False, dtype), Complex(True, dtype), [(x[:5], torch.arange(5) % 2), (x[5:], torch.arange(4) % 2)]


def test_complex_parameters_are_their_real_and_imaginary_parts():
    model, real, batches = pair()
    mine, theirs = (Hessian(net, F.cross_entropy, batches) for net in (model, real))
    assert mine.shape == theirs.shape == (51, 51)
    assert mine.dtype == torch.float64
    v = torch.randn(51, 2, dtype=torch.float64)
    assert torch.allclose(mine @ v, theirs @ v)
    for one, other in zip(
        mine.objective.loss_and_gradient(v[:, 0]), theirs.objective.loss_and_gradient(v[:, 0]), strict=True
    ):
        assert torch.allclose(one, other)
    found, expected = (hessian.eigenpairs(k=3, tol=1e-8) for hessian in (mine, theirs))
    assert found.converged
    assert torch.allclose(found.values, expected.values)


def test_a_complex_parabola():
    # ½(10 a² + 6 b²) of z = a + bi
    model = nn.Linear(1, 1, bias=False, dtype=torch.complex128)
    loss = lambda out, y: 5 * out.real.square().mean() + 3 * out.imag.square().mean()  # noqa: E731
    pairs = Hessian(model, loss, [(torch.ones(1, 1, dtype=torch.complex128), None)]).eigenpairs(k=2)
    assert pairs.values.tolist() == pytest.approx([10, 6])
    assert pairs.converged


@pytest.mark.parametrize("adaptive", [False, True])
def test_sharpness_of_complex_parameters(adaptive):
    model, real, batches = pair()
    options = {"adaptive": adaptive, "seed": 1}
    for measure in (
        lambda net: average_sharpness(net, F.cross_entropy, batches, 0.1, draws=3, **options).value,
        lambda net: sharpness(net, F.cross_entropy, batches, 0.1, steps=3, restarts=2, **options).values,
        lambda net: m_sharpness(net, F.cross_entropy, batches, 0.1, 2),
        lambda net: m_sharpness(net, F.cross_entropy, batches, 0.1),
    ):
        assert measure(model) == pytest.approx(measure(real), rel=1e-9)


def test_other_instruments_of_complex_parameters():
    model, real, batches = pair()
    groups = [[{"params": net.first, "rho": 0.1}, {"params": [net.last, net.scale]}] for net in (model, real)]
    one, other = (
        Monitor(torch.optim.SGD(group, lr=0.1), net, F.cross_entropy, batches, tol=1e-7, radius=0.1).check()
        for net, group in zip((model, real), groups, strict=True)
    )
    for key in ("loss", "gradient_norm", "hessian_norm", "edge", "sam_gradient_alignment", "m_sharpness"):
        assert one[key] == pytest.approx(other[key], rel=1e-6), key
    (x, y), *_ = batches
    runs = {"lr": [0.1, 0.2], "rho": [0.1, 0.0], "shared": True, "tol": 1e-7}
    several = [
        stability_of_stack(
            net, F.cross_entropy, {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in net.named_parameters()},
            x, y, **runs,
        )
        for net in (model, real)
    ]  # fmt: skip
    for one, other in zip(*several, strict=True):
        assert one.converged
        for key in ("loss", "hessian_norm", "gradient_alignment", "sam_gradient_alignment"):
            assert getattr(one, key) == pytest.approx(getattr(other, key), rel=1e-5), key
    ends = [copy.deepcopy(net) for net in (model, real)]
    with torch.no_grad():
        for end in ends:
            for p in end.parameters():
                p.mul_(-1.5)
    lines = [along_line(a, b, F.cross_entropy, batches, [0, 0.3, 1]) for a, b in zip((model, real), ends, strict=True)]
    assert lines[0].loss == pytest.approx(lines[1].loss)


def test_complex_parameters_in_single_precision():
    model, real, batches = pair(torch.complex64)
    assert Hessian(model, F.cross_entropy, batches).dtype == torch.float32
    found, expected = (Hessian(net, F.cross_entropy, batches).eigenpairs() for net in (model, real))
    assert found.converged
    assert found.values.item() == pytest.approx(expected.values.item(), rel=1e-3)


def test_a_complex_loss_is_refused():
    model, _, batches = pair()
    complex_loss = lambda out, y: out.mean() * 1j  # noqa: E731
    for measure in (
        lambda: Hessian(model, complex_loss, batches).eigenpairs(),
        lambda: sharpness(model, complex_loss, batches, 0.1),
        lambda: along_line(model, model, complex_loss, batches),
    ):
        with pytest.raises(ValueError, match="real number, not a complex one"):
            measure()
