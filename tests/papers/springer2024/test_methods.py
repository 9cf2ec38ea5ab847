"""The two effects of SAM, each against its formula in the docstring, and both together against LSAM."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland import SAM
from lowland.models import mlp, strided_cnn
from lowland.optim.scope import last_layer
from lowland.papers.springer2024.methods import Mechanism

RHO = 0.7


def logistic(f, y):
    return F.softplus(-y[:, None] * f).mean()


def network(name, outputs):
    """A network in float64, and inputs for it."""
    torch.manual_seed(0)
    if name == "mlp":
        return mlp([5, 7, 6, outputs]).double(), torch.randn(9, 5, dtype=torch.float64)
    return strided_cnn(16, 8, outputs).double(), torch.randn(9, 3, 16, 8, dtype=torch.float64)


def labelled(outputs):
    """Labels and the loss: logistic for one output, cross-entropy for more."""
    generator = torch.Generator().manual_seed(1)
    if outputs == 1:
        return torch.randint(2, (9,), generator=generator).double() * 2 - 1, logistic
    return torch.randint(outputs, (9,), generator=generator), F.cross_entropy


def step(model, x, y, loss_fn, make):
    """The gradient that a step goes along, by name: the change of the weights at η = 1."""
    base = torch.optim.SGD(model.parameters(), lr=1.0)
    base.zero_grad()
    optimizer = make(base)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def closure():
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    change = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(before[name])
    assert loss.item() == pytest.approx(loss_fn(model(x), y).item())
    return change


def close(found, expected):
    return all(torch.allclose(found[name], expected[name], rtol=0, atol=1e-12) for name in expected)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_both_effects_are_lsam_where_only_the_last_layer_is_perturbed(name, outputs):
    model, x = network(name, outputs)
    y, loss_fn = labelled(outputs)

    def along(**effects):
        return step(model, x, y, loss_fn, lambda base: Mechanism(base, RHO, model, scope=last_layer, **effects))

    lsam = step(model, x, y, loss_fn, lambda base: SAM(base, rho=RHO, model=model, scope=last_layer))
    assert close(along(weights=True, scaling=True), lsam)
    assert not close(along(weights=True, scaling=False), lsam)
    assert not close(along(weights=False, scaling=True), lsam)
    assert close(along(weights=False, scaling=False), step(model, x, y, loss_fn, lambda base: base))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(("weights", "scaling"), [(True, False), (False, True)])
def test_each_effect_is_its_formula(outputs, weights, scaling):
    model, x = network("mlp", outputs)
    y, loss_fn = labelled(outputs)
    params = dict(model.named_parameters())
    *earlier, w_name, b_name = params
    g = dict(zip(params, torch.autograd.grad(loss_fn(model(x), y), list(params.values())), strict=True))
    norm = torch.cat([t.flatten() for t in g.values()]).norm()
    phantom = {name: p.detach() + RHO * g[name] / norm for name, p in params.items()}

    def logit_gradient(logits):
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(loss_fn(logits, y), logits)[0]

    h = nn.Sequential(*list(model)[:-1])(x)  # the features at w
    pulls = logit_gradient(torch.func.functional_call(model, phantom, (x,)) if weights else model(x))
    v = phantom[w_name] if scaling else params[w_name].detach()
    expected = {w_name: pulls.T @ h.detach(), b_name: pulls.sum(0)}
    by_w = torch.autograd.grad(h, [params[name] for name in earlier], grad_outputs=pulls @ v)
    expected |= dict(zip(earlier, by_w, strict=True))
    found = step(model, x, y, loss_fn, lambda base: Mechanism(base, RHO, model, weights=weights, scaling=scaling))
    assert close(found, expected)


def test_nothing_is_left_behind_and_batch_norm_counts_a_step_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    other = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    other.load_state_dict(model.state_dict())
    other(x)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = Mechanism(base, RHO, model, weights=True, scaling=True)

    def closure():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(model[1].running_mean, other[1].running_mean)
    assert model[1].num_batches_tracked == 1
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is base.param_groups


def test_bad_input():
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no linear layer"):
        Mechanism(base, 0.1, model, weights=True, scaling=True)
    with pytest.raises(ValueError, match="rho"):
        Mechanism(base, -0.1, mlp([2, 2]), weights=True, scaling=True)
