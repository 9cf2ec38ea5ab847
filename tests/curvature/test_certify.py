"""Products that are not those of the loss: what torch gets wrong is replaced, all else is found and not certified."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from lowland.curvature import Hessian, Monitor, stability, stability_of_stack
from lowland.curvature.objective import Objective
from lowland.curvature.wanted import Wanted
from tests.curvature.test_hessian import data, dense
from tests.curvature.test_lanczos import eigenpairs


def by_differences(objective, vector, h=1e-6):
    """Hv in float64."""
    return (objective.loss_and_gradient(h * vector)[1] - objective.loss_and_gradient(-h * vector)[1]) / (2 * h)


# Weight norm, of which torch's second derivative is wrong.


class WeightNorm(nn.Module):
    """torch's parametrization, or the same written out."""

    def __init__(self, layer, dim, own):
        super().__init__()
        self.layer = layer if own else parametrizations.weight_norm(layer, dim=dim)
        self.dim = dim
        if own:
            self.v, self.bias = nn.Parameter(layer.weight.detach().clone()), layer.bias
            norm = torch.linalg.vector_norm
            others = [d for d in range(self.v.dim()) if d != dim]
            self.g = nn.Parameter(norm(self.v) if dim is None else norm(self.v, dim=others, keepdim=True).detach())
            self.own = True
        else:
            self.own = False

    def forward(self, x):
        if not self.own:
            return self.layer(x)
        others = tuple(d for d in range(self.v.dim()) if d != self.dim)
        norm = self.v.square().sum().sqrt() if self.dim is None else self.v.square().sum(others, keepdim=True).sqrt()
        weight = self.g * self.v / norm
        return F.conv1d(x, weight, self.bias, padding=1) if weight.dim() == 3 else F.linear(x, weight, self.bias)


def weight_normed(dim=0, own=False, dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Conv1d(4, 5, 3, padding=1), nn.Linear(30, 3)
    conv, linear = (WeightNorm(layer.to(dtype), dim, own) for layer in layers)
    return nn.Sequential(conv, nn.Tanh(), nn.Flatten(), linear)


def sequences(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 4, 6, generator=generator, dtype=dtype), torch.arange(7) % 3


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(dim):
    model, (x, y) = weight_normed(dim), sequences()
    hessian = Hessian(model, F.cross_entropy, [(x, y)])
    v = torch.randn(hessian.shape[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(hessian @ v, by_differences(hessian.objective, v / v.norm()) * v.norm(), atol=1e-7)
    pairs = hessian.eigenpairs(k=2, tol=1e-6)
    assert pairs.converged
    for value, vector in zip(pairs.values, pairs.vectors, strict=True):
        assert (by_differences(hessian.objective, vector) - value * vector).norm() < 1e-5 * pairs.values[0].abs()
    # The eigenvalues are those of the formula.
    written_out = dense_of(weight_normed(dim, own=True), x, y)
    assert pairs.values[0].item() == pytest.approx(written_out.abs().max().item(), rel=1e-6)


def dense_of(model, x, y):
    for name, p in list(model.named_parameters()):
        if ".layer.weight" in name:
            p.requires_grad_(False)
    return torch.linalg.eigvalsh(dense(model, F.cross_entropy, x, y))


def test_weight_norm_in_stability_stack_and_monitor():
    model, (x, y) = weight_normed(), sequences()
    expected = dense_of(weight_normed(own=True), x, y).abs().max().item()
    one = stability(model, F.cross_entropy, [(x, y)], lr=0.1, rho=0.1, tol=1e-5)
    params = {name: torch.stack([p.detach()] * 2) for name, p in model.named_parameters()}
    several = stability_of_stack(
        model, F.cross_entropy, params, x, y, shared=True, lr=[0.1] * 2, rho=[0.1] * 2, tol=1e-5
    )
    record = Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, F.cross_entropy, [(x, y)], tol=1e-5).check()
    for found in (one, *several):
        assert found.converged
        assert found.hessian_norm == pytest.approx(expected, rel=1e-5)
    assert record["converged"]
    assert record["hessian_norm"] == pytest.approx(expected, rel=1e-5)


# Any other operation.


class Detached(torch.autograd.Function):
    """x³, whose gradient doesn't say that it depends on x."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.x**2 * g


class Cube(torch.autograd.Function):
    """x³; a subclass says what it takes for its derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3


class Wrong(Cube):
    """x³ with a second derivative of its own: 7x for 6x."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (3 * x**2).detach() * g + (3.5 * x**2 - (3.5 * x**2).detach()) * g


class Skewed(Cube):
    """x³ with one of different size from the two sides: its product is not symmetric."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g + (g * x.roll(1, -1) - (g * x.roll(1, -1)).detach())


class Once(Cube):
    """x³ that refuses a second derivative."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Cubed(nn.Module):
    def __init__(self, cube, dtype, *between):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.cube = nn.Linear(3, 6), nn.Linear(6, 2), cube
        self.between = nn.Sequential(*between)
        self.to(dtype)

    def forward(self, x):
        return self.last(self.between(self.cube(self.first(x))))


def refused(cube, dtype, *between):
    """Pairs that are not certified, and the residual that is true."""
    model, (x, y) = Cubed(cube.apply, dtype, *between), data(dtype=dtype)
    hessian = Hessian(model, F.cross_entropy, [(x, y)])
    with pytest.warns(UserWarning, match="not certified"):
        pairs = hessian.eigenpairs(tol=1e-3)
    exact = Objective(model.double(), F.cross_entropy, [(x.double(), y)])
    vector = pairs.vectors[0].double()
    return pairs, (by_differences(exact, vector) - pairs.values[0].double() * vector).norm().item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cube", [Detached, Wrong, Skewed, Once])
def test_a_wrong_second_derivative_is_not_certified(cube, dtype):
    pairs, residual = refused(cube, dtype)
    assert not pairs.converged
    assert "second derivative" in pairs.reason
    assert pairs.residuals[0].item() == pytest.approx(residual, rel=1e-3)  # never one that isn't true
    assert residual > 0.005 * pairs.values[0].abs()


def test_among_kinks_in_single_precision_it_is_found_in_double():
    pairs, residual = refused(Wrong, torch.float32, nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
    assert "differences of gradients" in pairs.reason
    assert pairs.residuals[0].item() == pytest.approx(residual, rel=1e-3)


def test_several_pairs_of_a_wrong_operator():
    model, (x, y) = Cubed(Wrong.apply, torch.float64), data()
    hessian = Hessian(model, F.cross_entropy, [(x, y)])
    with pytest.warns(UserWarning, match="not certified"):
        pairs = hessian.eigenpairs(k=3, tol=1e-4)
    for value, vector, residual in zip(pairs.values, pairs.vectors, pairs.residuals, strict=True):
        true = (by_differences(hessian.objective, vector) - value * vector).norm().item()
        assert residual.item() == pytest.approx(true, rel=1e-3, abs=1e-4 * pairs.values[0].abs().item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cube", [Detached, Wrong, Skewed, Once])
def test_the_first_product_of_a_wrong_operator_warns(cube, dtype):
    model, (x, y) = Cubed(cube.apply, dtype), data(dtype=dtype)
    hessian = Hessian(model, F.cross_entropy, [(x, y)])
    vectors = torch.randn(hessian.shape[0], 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    with pytest.warns(UserWarning, match=r"H @ v is wrong: differences of gradients"):
        _ = hessian @ vectors
    right = Hessian(Cubed(lambda x: x**3, dtype), F.cross_entropy, [(x, y)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = hessian @ vectors  # said once
        _ = right @ vectors
        _ = Hessian(Cubed(lambda x: x.relu(), dtype), F.cross_entropy, [(x, y)]) @ vectors[:, 0]


class Loud(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x**3

    @staticmethod
    def backward(ctx, g):
        if torch.is_grad_enabled():
            raise RuntimeError("derivative for loud_backward is not implemented")
        return g


def test_no_second_derivative_says_what_to_do():
    model, (x, y) = Cubed(Loud.apply, torch.float64), data()
    with pytest.raises(
        RuntimeError, match=r"no second derivative, so there are no Hessian products: derivative for loud"
    ):
        Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs()


def test_a_wrong_operator_in_stability_stack_and_monitor():
    model, (x, y) = Cubed(Wrong.apply, torch.float64), data()
    with pytest.warns(UserWarning, match=r"the Hessian norm is not certified: .*second derivative"):
        one = stability(model, F.cross_entropy, [(x, y)], lr=0.1, rho=0.1)
    assert not one.converged
    assert "differences of gradients" in one.reason

    # The same under vmap, by what torch allows there.
    def cube(x):
        return x.detach() ** 3 + 3 * x.detach() ** 2 * (x - x.detach())

    stacked = Cubed(cube, torch.float64)
    params = {name: torch.stack([p.detach(), 1.1 * p.detach()]) for name, p in stacked.named_parameters()}
    with pytest.warns(UserWarning, match=r"the Hessian norms of 2 of 2 runs are not certified"):
        several = stability_of_stack(stacked, F.cross_entropy, params, x, y, shared=True, lr=[0.1] * 2, rho=[0.1] * 2)
    alone = Objective(stacked, F.cross_entropy, [(x, y)])
    vector = several[0].vector
    true = (by_differences(alone, vector)).norm().item()
    assert several[0].residual == pytest.approx(abs(true - several[0].hessian_norm), abs=0.5 * true)
    watch = Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, F.cross_entropy, [(x, y)])
    with pytest.warns(UserWarning, match=r"Hessian norm at step 0 is not certified: .*second derivative"):
        record = watch.check()
    assert not record["converged"]
    assert record["residual"] == pytest.approx(one.residual)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.check()  # said once


@pytest.mark.parametrize("restarts", [False, True])
def test_an_operator_that_is_not_symmetric(restarts):
    torch.manual_seed(0)
    symmetric = torch.randn(200, 200, dtype=torch.float64)
    symmetric = symmetric + symmetric.T
    skew = torch.randn(200, 200, dtype=torch.float64)
    options = {"dtype": torch.float64, "max_basis": 10 if restarts else 64, "tol": 1e-6, "max_products": 400}
    for amount, certified in [(0, True), (1e-9, True), (1e-3, False), (1, False)]:
        matrix = symmetric + amount * (skew - skew.T)
        pairs = eigenpairs(lambda v, matrix=matrix: matrix @ v, 200, **options)
        assert pairs.converged == certified, (amount, pairs)
        assert ("symmetric" in pairs.reason) != certified
        assert certified or pairs.products < 100  # it doesn't go on


def test_kinks_and_small_scales_are_certified():
    for dtype in (torch.float32, torch.float64):
        for seed in range(3):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(8, 60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 3)).to(dtype)
            x, y = torch.randn(300, 8, dtype=dtype), torch.arange(300) % 3
            for factor in (1.0, 1e-6, 1e6):
                loss = lambda out, y, factor=factor: factor * F.cross_entropy(out, y)  # noqa: E731
                pairs = Hessian(model, loss, [(x, y)]).eigenpairs(k=2)
                assert pairs.converged, pairs.reason


@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_other_end_of_the_spectrum(which, dtype):
    # The eigenvalues at the lower end are 0 but for rounding: it is |λ₁| that they are compared with.
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype), data(dtype=dtype)[0]
    model[1].requires_grad_(False)
    pairs = Hessian(model, F.mse_loss, [(x, torch.zeros(7, 2, dtype=dtype))]).eigenpairs(k=2, which=which)
    assert pairs.converged, pairs.reason
    assert pairs.values.abs().max() <= pairs.largest * (1 + 1e-6)


@pytest.mark.parametrize("tol", [0.0, 1e-12, 0.3, 0.9])
def test_any_tolerance(tol):
    model, (x, y) = Cubed(lambda x: x**3, torch.float64), data()
    hessian = Hessian(model, F.cross_entropy, [(x, y)])
    pairs = hessian.certified(Wanted(tol=tol))
    assert pairs.converged == (tol > 0), pairs.reason
    assert "differences" not in pairs.reason
    wrong = Hessian(Cubed(Detached.apply, torch.float64), F.cross_entropy, [(x, y)]).certified(Wanted(tol=tol))
    assert not wrong.converged


@pytest.mark.parametrize("drop", [nn.Dropout(0.4), nn.Dropout1d(0.4), nn.AlphaDropout(0.4)])
def test_dropout_among_kinks(drop):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 60), drop, nn.ReLU(), nn.Linear(60, 40), drop, nn.ReLU(), nn.Linear(40, 3))
    x, y = torch.randn(300, 8), torch.arange(300) % 3
    pairs = Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs(k=2)
    assert pairs.converged, pairs.reason


def test_random_numbers_that_depend_on_the_type_are_no_contradiction():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(8, 60), nn.Tanh(), nn.Linear(60, 3))

        def forward(self, x):
            return self.layers(F.leaky_relu(x + torch.randn_like(x)))

    x, y = torch.randn(300, 8), torch.arange(300) % 3
    pairs = Hessian(Noisy(), F.cross_entropy, [(x, y)]).eigenpairs()
    assert pairs.converged, pairs.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_a_kink_there_is_no_hessian_to_certify(dtype):
    class ZeroBranch(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.branch, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.gain = nn.Parameter(torch.zeros(8))

        def forward(self, x):
            z = torch.relu(self.first(x))
            return self.last(torch.relu(z + self.gain * self.branch(z)))  # where z is 0, so is this

    model, (x, y) = ZeroBranch().to(dtype), data(60, dtype=dtype)
    with pytest.warns(UserWarning, match=r"could not be checked: .* kinks \(a ReLU whose input is 0\)"):
        assert not Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs().converged
    with torch.no_grad():
        model.gain.normal_()
    assert Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs().converged


def test_a_model_that_has_its_type_written_into_it():
    model, (x, y) = Cubed(lambda x: x.float() ** 3, torch.float32), data(dtype=torch.float32)
    model.cube = lambda x: (x @ torch.eye(6)) ** 3  # doesn't run in float64
    assert Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs().converged
    model = Cubed(lambda x: torch.relu(x @ torch.eye(6)) ** 3, torch.float32)
    assert Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs().converged


# Models that compute in float32 whatever type they are given.


class InSingle(nn.Module):
    """RMS norm as language models have it, with weights that don't matter but for the norm of all."""

    def __init__(self, n, single=True):
        super().__init__()
        self.weight, self.single, self.heavy = nn.Parameter(torch.ones(n)), single, nn.Parameter(torch.full((n,), 9.0))

    def forward(self, x):
        z = x.to(torch.float32) if self.single else x
        z = z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * z.to(x.dtype) + 0 * self.heavy


def in_single(seed, act, norm=InSingle, wrong=0.0):
    torch.manual_seed(seed)

    class Off(torch.autograd.Function):
        """x², whose second derivative is 2 (1 + wrong)."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 2 * x.detach() * g + (1 + wrong) * 2 * (x - x.detach()) * g

    class Square(nn.Module):
        def forward(self, x):
            return x + (Off.apply(x) if wrong else x.square()) / 4

    layers = (nn.Linear(6, 12), norm(12), act(), nn.Linear(12, 12), norm(12), act(), nn.Linear(12, 5), Square())
    return nn.Sequential(*layers, nn.Linear(5, 3)), torch.randn(40, 6), torch.randint(3, (40,))


def true_residual(pairs, seed, act, wrong=0.0):
    """By differences in float64, of the same network without float32 in it."""
    model, x, y = in_single(seed, act, lambda n: InSingle(n, single=False), wrong)
    vector = pairs.vectors[0].double()
    exact = Objective(model.double(), F.cross_entropy, [(x.double(), y)])
    return (by_differences(exact, vector, 1e-7) - pairs.values[0].double() * vector).norm().item()


@pytest.mark.parametrize("act", [nn.SiLU, nn.ReLU])
def test_float32_in_the_model_is_certified(act):
    for seed in range(4):
        model, x, y = in_single(seed, act)
        pairs = Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs()
        assert pairs.converged, pairs.reason
        assert true_residual(pairs, seed, act) < pairs.residuals.item() + 2e-3 * pairs.values.abs().item()
    model, x, y = in_single(0, act)
    for options in ({}, {"k": 2, "tol": 1e-2}):
        pairs = Hessian(model.double(), F.cross_entropy, [(x.double(), y)]).eigenpairs(**options)
        assert pairs.converged, pairs.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("act", [nn.SiLU, nn.ReLU])
@pytest.mark.parametrize("wrong", [1.0, 0.1])
def test_float32_in_the_model_hides_no_wrong_second_derivative(wrong, act, dtype):
    for seed in range(2):
        model, x, y = in_single(seed, act, wrong=wrong)
        pairs = Hessian(model.to(dtype), F.cross_entropy, [(x.to(dtype), y)]).certified(Wanted())
        true = true_residual(pairs, seed, act, wrong)
        assert true > 5e-3 * pairs.values.abs().item()
        assert not pairs.converged
        if act is nn.SiLU and wrong == 1.0:
            assert "second derivative" in pairs.reason
            assert pairs.residuals.item() == pytest.approx(true, rel=0.1)
        else:  # it may be kinks, or rounding
            assert "the model computes in float32, whatever type it is given" in pairs.reason
            assert ("kinks" in pairs.reason) == (act is nn.ReLU)


def test_offsets_that_float32_swallows_are_no_contradiction():
    class Single(nn.Linear):
        def forward(self, x):
            return F.linear(x.float(), self.weight.float(), self.bias.float())

    for act in (nn.Tanh, nn.ReLU):
        torch.manual_seed(0)
        model = nn.Sequential(Single(8, 30), act(), Single(30, 30), act(), Single(30, 3))
        x, y = torch.randn(99, 8), torch.arange(99) % 3
        for dtype in (torch.float32, torch.float64):
            pairs = Hessian(model.to(dtype), F.cross_entropy, [(x.to(dtype), y)]).eigenpairs()
            assert pairs.converged, pairs.reason


def test_float32_in_the_model_of_a_stack():
    model, x, y = in_single(0, nn.SiLU)
    others = [in_single(seed, nn.SiLU)[0] for seed in range(3)]
    params = {
        name: torch.stack([dict(other.named_parameters())[name].detach() for other in others])
        for name, _ in model.named_parameters()
    }
    for found in stability_of_stack(model, F.cross_entropy, params, x, y, shared=True, lr=[0.1] * 3, rho=[0.1] * 3):
        assert found.converged, found.reason


@pytest.mark.parametrize("inside", [True, False])
def test_the_reason_names_the_type_in_the_model(inside):
    class Steep(nn.Module):
        """A gradient that bends within what float32 resolves, to the same on both sides: differences are all wrong."""

        def __init__(self):
            super().__init__()
            self.p, self.eye = nn.Parameter(torch.linspace(1, 2, 9)), torch.eye(9)

        def forward(self, x):
            w = self.p.float() if inside else self.p @ self.eye
            return ((1e3 * (w + x)).sin() / 1e6).sum(1, keepdim=True)

    x = torch.zeros(1, 9)
    says = "computes in float32, whatever type" if inside else r"doesn't run in float64 \(RuntimeError: "
    with pytest.warns(UserWarning, match=f"could not be checked: the model {says}"):
        pairs = Hessian(Steep(), lambda out, _: out.mean(), [(x, x)]).eigenpairs()
    assert not pairs.converged
    assert "tol=0.1 can be met" in pairs.reason
    assert Hessian(Steep(), lambda out, _: out.mean(), [(x, x)]).eigenpairs(tol=0.1).converged


def test_what_has_not_converged_warns():
    model, (x, y) = weight_normed(), sequences()
    with pytest.warns(UserWarning, match=r"after 3 products the residual is \S+, above tol"):
        pairs = Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs(tol=1e-9, max_products=3)
    assert not pairs.converged


# Checkpointing.


class Attention(nn.Module):
    def __init__(self, checkpointed, norm=False):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.checkpointed = nn.Linear(8, 8), checkpointed
        self.norm = nn.BatchNorm1d(5) if norm else nn.Identity()

    def block(self, x):
        z = self.q(self.norm(x)).unflatten(-1, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(z, z, z)

    def forward(self, x):
        z = checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x)
        return z.mean((1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pieces", [[8], [4, 4]])
def test_checkpointed_attention(dtype, pieces):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 5, 8, generator=generator, dtype=dtype), torch.arange(8) % 4
    batches = list(zip(x.split(pieces), y.split(pieces), strict=True))
    found, expected = (
        Hessian(Attention(checkpointed).to(dtype), F.cross_entropy, batches).eigenpairs(k=2)
        for checkpointed in (True, False)
    )
    assert found.converged
    assert torch.allclose(found.values, expected.values, rtol=1e-4)
    watch = Attention(True).to(dtype)
    record = Monitor(torch.optim.SGD(watch.parameters(), lr=0.1), watch, F.cross_entropy, batches).check()
    assert record["hessian_norm"] == pytest.approx(expected.values[0].abs().item(), rel=1e-3)


def test_checkpointed_batch_norm_keeps_its_statistics():
    model, x, y = Attention(True, norm=True).double(), torch.randn(8, 5, 8).double(), torch.arange(8) % 4
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
