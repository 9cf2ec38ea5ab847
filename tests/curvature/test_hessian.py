"""Hessian products and eigenpairs against the Hessian written out in full, in float64."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.curvature import Hessian, Monitor, sharpness, stability
from lowland.curvature.objective import Objective
from lowland.models import Transformer, norm_cnn


def small(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def data(n=7, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator, dtype=dtype), torch.arange(n) % 2


def dense(model, loss_fn, x, y):
    """The Hessian by two nested derivatives of the loss as a function of one flat vector."""
    params = [p for p in model.parameters() if p.requires_grad]
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    sizes = [p.numel() for p in params]

    def loss(flat):
        pieces = flat.split(sizes)
        values = {n: v.view_as(p) for n, v, p in zip(names, pieces, params, strict=True)}
        return loss_fn(torch.func.functional_call(model, values, (x,)), y)

    return torch.autograd.functional.hessian(loss, torch.cat([p.detach().reshape(-1) for p in params]))


def test_products_one_and_several_in_unequal_chunks():
    model, (x, y) = small(), data()
    exact = dense(model, F.cross_entropy, x, y)
    vectors = torch.randn(len(exact), 5, dtype=torch.float64)
    whole = Hessian(model, F.cross_entropy, [(x, y)])
    chunks = Hessian(model, F.cross_entropy, [(x[:4], y[:4]), (x[4:6], y[4:6]), (x[6:], y[6:])])
    for operator in (whole, chunks):
        assert torch.allclose(operator @ vectors, exact @ vectors, atol=1e-12)
        assert torch.allclose(operator @ vectors[:, 0], exact @ vectors[:, 0], atol=1e-12)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("chunked", [False, True])
def test_eigenpairs(chunked):
    model, (x, y) = small(), data()
    values = torch.linalg.eigvalsh(dense(model, F.cross_entropy, x, y))
    batches = [(x[:4], y[:4]), (x[4:], y[4:])] if chunked else [(x, y)]
    operator = Hessian(model, F.cross_entropy, batches)
    pairs = operator.eigenpairs(k=3, tol=1e-8)
    assert torch.allclose(pairs.values, values[torch.argsort(-values.abs())[:3]])
    for value, vector, residual in zip(pairs.values, pairs.vectors, pairs.residuals, strict=True):
        assert torch.allclose((operator @ vector - value * vector).norm(), residual, atol=1e-12)


def test_weights_of_batches():
    model, (x, y) = small(), data()

    def masked(output, target):  # the mean over what the mask lets through
        return F.cross_entropy(output, target, ignore_index=1)

    pieces = [(x[:5], y[:5]), (x[5:], y[5:])]
    operator = Hessian(model, masked, pieces, weight=lambda x, y: (y == 0).sum().item())
    exact = dense(model, masked, x, y)
    v = torch.randn(len(exact), dtype=torch.float64)
    assert torch.allclose(operator @ v, exact @ v)


def test_frozen_and_unused_parameters_and_a_linear_loss():
    model, (x, y) = small(), data()
    model[0].requires_grad_(False)
    model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    model.forward = lambda x: model[2](torch.tanh(model[0](x)))
    operator = Hessian(model, F.cross_entropy, [(x, y)])
    v = torch.randn(operator.shape[0], dtype=torch.float64)
    exact = dense(nn.Sequential(*model[:3]), F.cross_entropy, x, y)
    unused = [i for i, (name, _) in enumerate(operator.objective.model.named_parameters()) if name == "unused"]
    assert unused  # first in order, as torch lists a module's own parameters before its children's
    assert torch.allclose((operator @ v)[2:], exact @ v[2:])
    assert (operator @ v)[:2].tolist() == [0.0, 0.0]
    linear = Hessian(nn.Linear(3, 1).double(), lambda output, _: output.mean(), [(x, y)])
    assert linear.eigenpairs().values.item() == 0.0


def test_leaves_batch_norm_dropout_and_the_random_state_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    x, y = data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    operator = Hessian(model, F.cross_entropy, [(x[:4], y[:4]), (x[4:], y[4:])])
    state = torch.get_rng_state()
    v = torch.randn(operator.shape[0], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = operator @ v
    assert torch.equal(first, operator @ v)  # one fixed function
    assert torch.allclose(v[:, 0] @ (operator @ v[:, 1]), v[:, 1] @ (operator @ v[:, 0]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_the_papers_networks_against_differences_of_gradients(kind):
    torch.manual_seed(0)
    if kind == "cnn":
        model, x, y = norm_cnn([3, 4], 8, 5).double(), torch.randn(4, 3, 8, 8).double(), torch.arange(4)
        loss_fn = F.cross_entropy
    else:
        model = Transformer(11, 6, layers=2, width=8, heads=2, key_size=3).double()
        x = y = torch.randint(11, (3, 6))
        loss_fn = lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten())  # noqa: E731
    objective = Objective(model, loss_fn, [(x, y)])
    v = torch.randn(objective.size, dtype=torch.float64)
    h = 1e-5 / v.norm()
    difference = (objective.loss_and_gradient(h * v)[1] - objective.loss_and_gradient(-h * v)[1]) / (2 * h)
    assert torch.allclose(Hessian(model, loss_fn, [(x, y)]) @ v, difference, atol=1e-6 * difference.norm().item())


def test_stability_against_its_parts():
    model, (x, y) = small(), data()
    measured = stability(model, F.cross_entropy, [(x, y)], lr=0.1, rho=0.3, eps=1e-5, tol=1e-8)
    params = list(model.parameters())
    loss = F.cross_entropy(model(x), y)
    g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(loss, params)])
    values, vectors = torch.linalg.eigh(dense(model, F.cross_entropy, x, y))
    top = values.abs().argmax()
    offset = 0.3 * g / (g.norm() + 1e-5)
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(params) + offset, params)
    sam = torch.cat([p.reshape(-1) for p in torch.autograd.grad(F.cross_entropy(model(x), y), params)])
    assert measured.loss == pytest.approx(loss.item())
    assert measured.gradient_norm == pytest.approx(g.norm().item())
    assert measured.hessian_norm == pytest.approx(values[top].abs().item())
    cosine = [torch.cosine_similarity(z, vectors[:, top], dim=0).abs().item() for z in (g, sam)]
    assert [measured.gradient_alignment, measured.sam_gradient_alignment] == pytest.approx(cosine)
    assert measured.gd_edge == pytest.approx(20)


def test_a_module_used_at_two_paths_stays_what_it_was():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            shared = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh())
            self.layers = nn.ModuleList([shared, shared])
            self.head = nn.Linear(3, 3)
            self.head.weight = shared[0].weight

        def forward(self, x):
            return self.head(self.layers[1](self.layers[0](x)))

    model, (x, y) = Twice().double(), data()
    params, buffers = list(model.parameters()), {name: b.clone() for name, b in model.named_buffers()}
    loss = F.cross_entropy(model(x), y)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])
    model.load_state_dict({**model.state_dict(), **buffers})
    objective = Objective(model, F.cross_entropy, [(x, y)])
    assert torch.allclose(objective.loss_and_gradient()[1], expected)
    stability(model, F.cross_entropy, [(x, y)], lr=0.1, rho=0.1)
    for mine, before in zip(model.parameters(), params, strict=True):
        assert mine is before
    assert model.layers[0][0].weight is model.head.weight
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    # Against the derivative of the gradient, by differences.
    v = torch.randn(objective.size, dtype=torch.float64)
    h = 1e-5
    difference = (objective.loss_and_gradient(h * v)[1] - objective.loss_and_gradient(-h * v)[1]) / (2 * h)
    assert torch.allclose(Hessian(model, F.cross_entropy, [(x, y)]) @ v, difference, atol=1e-7)


def test_a_loader_that_shuffles_is_one_fixed_operator():
    model, (x, y) = small(), data(30)
    dataset = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True, drop_last=True)
    operator = Hessian(model, F.cross_entropy, loader)
    v = torch.randn(operator.shape[0], dtype=torch.float64)
    state = torch.get_rng_state()
    first = operator @ v
    torch.rand(3)
    assert torch.equal(first, operator @ v)
    torch.set_rng_state(state)
    operator.eigenpairs()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_compiled_model():
    model, (x, y) = small(), data()
    compiled = torch.compile(model, backend="aot_eager")
    v = torch.randn(26, dtype=torch.float64)
    expected = Hessian(model, F.cross_entropy, [(x, y)]) @ v
    assert torch.allclose(Hessian(compiled, F.cross_entropy, [(x, y)]) @ v, expected)


def test_checkpointed_activations():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = small()

        def forward(self, x):
            return self.layers[2](checkpoint(self.layers[:2], x, use_reentrant=False))

    model, (x, y) = small(), data()
    plain, again = (Objective(net, F.cross_entropy, [(x, y)]) for net in (model, Checkpointed()))
    offset = torch.randn(26, dtype=torch.float64)
    assert torch.allclose(again.loss_and_gradient()[1], plain.loss_and_gradient()[1])
    assert torch.allclose(again.loss_and_gradient(offset)[1], plain.loss_and_gradient(offset)[1])
    assert torch.allclose(Hessian.of(again) @ offset, Hessian.of(plain) @ offset)


def test_a_penalty_on_the_parameters():
    model, (x, y) = small(), data()
    penalized = Objective(
        model,
        lambda out, y: F.cross_entropy(out, y) + 0.1 * sum(p.square().sum() for p in model.parameters()),
        [(x, y)],
    )
    plain = Objective(model, F.cross_entropy, [(x, y)])
    w, v = nn.utils.parameters_to_vector(model.parameters()).detach(), torch.randn(26, dtype=torch.float64)
    assert torch.allclose(penalized.loss_and_gradient(v)[1], plain.loss_and_gradient(v)[1] + 0.2 * (w + v))
    assert torch.allclose(Hessian.of(penalized) @ v, Hessian.of(plain) @ v + 0.2 * v)
    params = list(model.parameters())
    held = Objective(model, lambda out, y: out.sum() + sum(p.square().sum() for p in params), [(x, y)])
    for call in (held.loss_and_gradient, lambda: Hessian.of(held) @ v):
        with pytest.raises(ValueError, match="ask the model for"):
            call()


def test_hooks_of_parameters_are_not_called():
    model, (x, y) = small(), data()
    v = torch.randn(26, dtype=torch.float64)
    expected = Hessian(model, F.cross_entropy, [(x, y)]) @ v
    for p in model.parameters():
        p.register_hook(lambda g: 1 / 0)
    assert torch.equal(Hessian(model, F.cross_entropy, [(x, y)]) @ v, expected)


def test_a_default_device_elsewhere():
    model, (x, y) = small(), data()
    torch.set_default_device("meta")
    try:
        assert Hessian(model, F.cross_entropy, [(x, y)]).eigenpairs().converged
    finally:
        torch.set_default_device(None)


def test_bad_input():
    model, (x, y) = small(), data()
    with pytest.raises(TypeError, match="generator"):
        Hessian(model, F.cross_entropy, (pair for pair in [(x, y)]))
    with pytest.raises(ValueError, match="no examples"):
        Hessian(model, F.cross_entropy, []) @ torch.zeros(26, dtype=torch.float64)
    with pytest.raises(ValueError, match="no examples"):
        Hessian(model, F.cross_entropy, []).eigenpairs()
    with pytest.raises(TypeError, match="weight="):
        Hessian(model, F.cross_entropy, [({"image": x}, y)]) @ torch.zeros(26, dtype=torch.float64)
    with pytest.raises(ValueError, match="shape"):
        Hessian(model, F.cross_entropy, [(x, y)]) @ torch.zeros(3)
    for none in (torch.zeros(26, 0), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="shape"):
            Hessian(model, F.cross_entropy, [(x, y)]) @ none
    with pytest.raises(TypeError, match="real numbers"):
        Hessian(model, F.cross_entropy, [(x, y)]) @ torch.zeros(26, dtype=torch.complex128)
    with pytest.raises(TypeError, match="list of pairs"):  # what follows isn't left out
        Hessian(model, F.cross_entropy, [(x, y), None, (x, y)]) @ torch.zeros(26)
    with pytest.raises(ValueError, match="mean over the batch"):
        Hessian(model, lambda o, y: F.cross_entropy(o, y, reduction="none"), [(x, y)]).eigenpairs()
    with pytest.raises(ValueError, match="requires a gradient"):
        Hessian(small().requires_grad_(False), F.cross_entropy, [(x, y)])
    with pytest.raises(FloatingPointError):
        stability(model, lambda o, y: F.cross_entropy(o / 0, y), [(x, y)], lr=0.1, rho=0.1)


@pytest.mark.parametrize("counted", [-1.0, math.nan, math.inf])
def test_a_batch_that_counts_less_than_nothing(counted):
    model, (x, y) = small(), data()
    weights = iter([10.0, counted] * 20)
    with pytest.raises(ValueError, match=f"finite number of at least 0, and weight= gave {counted:g}"):
        Hessian(model, F.cross_entropy, [(x, y), (x, y)], weight=lambda x, y: next(weights)) @ torch.zeros(26)


def test_reprs_say_what_a_thing_is():
    model, (x, y) = small(), data()
    assert repr(Objective(model, F.cross_entropy, [(x, y)])) == "Objective(Sequential, 26 parameters, float64 on cpu)"
    assert repr(sharpness(model, F.cross_entropy, [(x, y)], 0.1, m=1)).endswith(", the mean of 7)")
    assert " ± " not in repr(sharpness(model, F.cross_entropy, [(x, y)], 0.1))
    assert repr(Hessian(model, F.cross_entropy, [(x, y)])) == "Hessian(Sequential, 26 parameters, float64 on cpu)"
    shown = repr(stability(model, F.cross_entropy, [(x, y)], lr=0.1, rho=0.05))
    assert shown.startswith("Stability(‖H‖ ")
    assert "tensor" not in shown
    monitor = Monitor(torch.optim.SGD(model.parameters(), lr=0.1), model, F.cross_entropy, [(x, y)])
    assert repr(monitor) == "Monitor(step 0, 0 records, every 100)"
    monitor.step()
    assert repr(monitor).startswith("Monitor(step 1, 1 records, every 100; ‖H‖ ")
