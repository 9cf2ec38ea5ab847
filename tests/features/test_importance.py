"""Importance weights against the formula of the paper, written out for networks small enough, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.features import importance_weights
from lowland.models import mlp
from lowland.optim.scope import last_layer


def data(n=9, d=4, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def linear(d=4, outputs=1):
    torch.manual_seed(0)
    return nn.Linear(d, outputs, bias=False).double()


def pulls(w, x, y):
    """λ of the paper for f(x) = w·x and y = ±1, summing to 1."""
    weights = torch.sigmoid(-y * (x @ w))
    return weights / weights.sum()


def climbed(w, x, y, rho):
    g = -(y * torch.sigmoid(-y * (x @ w))) @ x / len(x)
    return w + rho * g / g.norm()


def norms(logits, y):
    weights = (logits.softmax(1) - F.one_hot(y, logits.shape[1])).norm(dim=1)
    return weights / weights.sum()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.floats(0, 3), st.integers(1, 5))
def test_linear_model_by_hand(n, d, rho, batch):
    (x, y), model = data(n, d), linear(d)
    w, sign = model.weight.detach()[0].clone(), 2 * y - 1
    found = importance_weights(model, zip_batches(x, y, batch), rho)
    torch.testing.assert_close(found.real, pulls(w, x, sign))
    torch.testing.assert_close(found.phantom, pulls(climbed(w, x, sign, rho), x, sign))
    assert found.real.shape == found.phantom.shape == (n,)
    assert found.real.sum().item() == pytest.approx(1)


def zip_batches(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


def test_perturbed_for_each_batch():
    (x, y), model = data(), linear()
    w, sign = model.weight.detach()[0].clone(), 2 * y - 1
    found = importance_weights(model, zip_batches(x, y, 4), 0.5, per_batch=True)
    parts = zip_batches(x, sign, 4)
    each = torch.cat([torch.sigmoid(-s * (part @ climbed(w, part, s, 0.5))) for part, s in parts])
    torch.testing.assert_close(found.real, pulls(w, x, sign))
    torch.testing.assert_close(found.phantom, each / each.sum())


@pytest.mark.parametrize("form", ["flat", "column", "zero beside", "two", "signs", "floats", "booleans"])
def test_one_logit_and_two_are_the_same(form):
    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear(outputs=2 if form == "two" else 1)

        def forward(self, x):
            out = self.inner(x)
            if form == "zero beside":
                return torch.cat([torch.zeros_like(out), out], 1)
            return out.flatten() if form == "flat" else out

    (x, y), model = data(), Shaped()
    rows = model.inner.weight.detach()
    w, sign = rows[1] - rows[0] if form == "two" else rows[0], 2 * y - 1
    targets = {"signs": sign, "floats": y[:, None].double(), "booleans": y > 0}.get(form, y)
    found = importance_weights(model, [(x, targets)], 0.7)
    torch.testing.assert_close(found.real, pulls(w, x, sign))
    # e is shared by the two rows, so that their difference goes √2 as far.
    rho = 0.7 * 2**0.5 if form == "two" else 0.7
    torch.testing.assert_close(found.phantom, pulls(climbed(w, x, sign, rho), x, sign))


@pytest.mark.parametrize("scope", [None, last_layer, "module", "parameters"])
def test_more_classes_and_scopes(scope):
    torch.manual_seed(0)
    (x, y), model = data(classes=3), mlp([4, 5, 3]).double()
    given_scope = {"module": model[3], "parameters": model[3].parameters()}.get(scope, scope)
    params = list(model.parameters()) if scope is None else list(model[3].parameters())
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), params)
    norm = sum(g.square().sum() for g in gradient).sqrt()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = importance_weights(model, [(x[:5], y[:5], None), (x[5:], y[5:], None)], 0.5, scope=given_scope)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    torch.testing.assert_close(found.real, norms(model(x), y).detach())
    with torch.no_grad():
        for p, g in zip(params, gradient, strict=True):
            p += 0.5 * g / norm
    torch.testing.assert_close(found.phantom, norms(model(x), y).detach())


def test_frozen_parameters_stay():
    torch.manual_seed(0)
    (x, y), model = data(classes=3), mlp([4, 5, 3]).double()
    expected = importance_weights(model, [(x, y)], 0.5, scope=last_layer)
    model[1].requires_grad_(False)
    torch.testing.assert_close(importance_weights(model, [(x, y)], 0.5).phantom, expected.phantom)


@pytest.mark.parametrize("per_batch", [False, True])
def test_no_trace(per_batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.ReLU(), nn.Linear(5, 2))
    x, y = data()
    model(x.float()).sum().backward()
    values = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    before, places = [value.clone() for value in values], [value.data_ptr() for value in values]
    random = torch.get_rng_state()

    class Broken(list):
        def __iter__(self):
            yield from super().__iter__()
            raise InterruptedError

    batches = [(x.float(), y)]
    importance_weights(model, batches, 0.5, per_batch=per_batch)
    with pytest.raises(InterruptedError):
        importance_weights(model, Broken(batches), 0.5, per_batch=per_batch)
    with pytest.raises(RuntimeError):
        importance_weights(model, [*batches, (x.float()[:, :3], y)], 0.5, per_batch=per_batch)
    after = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    assert all(map(torch.equal, before, after))
    assert [value.data_ptr() for value in after] == places
    assert all(module.training for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())


def test_weights_are_back_after_an_error_at_the_phantom_parameters():
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.at_w = linear(), None

        def forward(self, x):
            if not torch.equal(self.inner.weight, self.at_w):
                raise InterruptedError
            return self.inner(x)

    model = Fragile()
    model.at_w = model.inner.weight.detach().clone()
    with pytest.raises(InterruptedError):
        importance_weights(model, [data()], 0.5)
    assert torch.equal(model.inner.weight, model.at_w)


def test_zero_gradient_and_zero_rho():
    x, y = torch.ones(4, 1, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    model = linear(1)
    nn.init.zeros_(model.weight)
    found = importance_weights(model, [(x, y)], 0.5)
    assert found.real.tolist() == found.phantom.tolist() == [0.25] * 4
    found = importance_weights(linear(), [data()], 0)
    assert torch.equal(found.real, found.phantom)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_examples_that_are_fitted_to_the_last_bit_still_have_weights(outputs):
    """In float32, 1 − p is 0 from a margin of 17 on, and in float64 exp(−margin) is from 745 on."""
    model = nn.Linear(1, outputs, bias=False)
    with torch.no_grad():
        model.weight.zero_()[-1] = 1
    x = torch.tensor([[800.0], [801.0], [802.0]])
    found = importance_weights(model, [(x, torch.full((3,), max(outputs - 1, 1)))], 0)
    expected = torch.tensor([0.0, -1.0, -2.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(found.real, expected)


def test_a_loader_that_shuffles():
    x, y = data(30)
    loader = torch.utils.data.DataLoader(list(zip(x, y, strict=True)), batch_size=4, shuffle=True)
    found = importance_weights(linear(), loader, 0.5)
    fixed = importance_weights(linear(), [(x, y)], 0.5)
    torch.testing.assert_close(found.phantom.sort().values, fixed.phantom.sort().values)
    generator = torch.Generator().manual_seed(0)
    own = torch.utils.data.DataLoader(list(zip(x, y, strict=True)), batch_size=4, shuffle=True, generator=generator)
    with pytest.raises(ValueError, match="in another order"):
        importance_weights(linear(), own, 0.5)


def test_a_loader_that_augments():
    """The real weights would be those of other images than the phantom ones."""
    x, y = data(30)
    draw = np.random.default_rng(0)

    class Augmented:
        def __iter__(self):
            yield x + torch.from_numpy(draw.normal(0, 1e-6, x.shape)).to(x.dtype), y

    with pytest.raises(ValueError, match="augmented anew: give a list of fixed ones"):
        importance_weights(linear(), Augmented(), rho=0.5)
    importance_weights(linear(), Augmented(), rho=0.5, per_batch=True)  # which sees each batch once


def test_refusals():
    (x, y), one, three = data(), linear(), linear(outputs=3)
    for wrong, says in [(x, "not a tensor"), (iter([(x, y)]), "not a generator"), ([x], r"pairs \(x, y\)")]:
        with pytest.raises(TypeError, match=says):
            importance_weights(one, wrong, 0.1)
    with pytest.raises(TypeError, match="scope="):
        importance_weights(one, [(x, y)], 0.1, scope=lambda model: ["weight"])
    with pytest.raises(ValueError, match="nothing to perturb"):
        importance_weights(one, [(x, y)], 0.1, scope=[nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="rho"):
        importance_weights(one, [(x, y)], -0.1)
    with pytest.raises(ValueError, match="no examples"):
        importance_weights(one, [], 0.1)
    with pytest.raises(ValueError, match="targets must be 0 and 1, or -1 and 1"):
        importance_weights(one, [(x, y + 1)], 0.1)
    with pytest.raises(ValueError, match="targets must be 0 and 1, or -1 and 1"):
        importance_weights(one, [(x, torch.arange(9) % 3 - 1)], 0.1)
    with pytest.raises(ValueError, match=r"integers \(9,\): not torch.float64 \(9, 3\)"):
        importance_weights(three, [(x, torch.eye(3).double()[y])], 0.1)
    with pytest.raises(ValueError, match=r"integers \(9,\): not torch.int64 \(8,\)"):
        importance_weights(three, [(x, y[:8])], 0.1)
    with pytest.raises(ValueError, match="from 0 to 2, not 0 to 3"):
        importance_weights(three, [(x, torch.arange(9) % 4)], 0.1)
    with pytest.raises(ValueError, match=r"not \(9, 1, 4\)"):
        importance_weights(nn.Sequential(one, nn.Unflatten(0, (9, 1)), nn.Linear(1, 4).double()), [(x, y)], 0.1)
    with pytest.raises(ValueError, match="at w are not finite"):
        importance_weights(one, [(x / 0, y)], 0.1)
    with pytest.raises(ValueError, match=r"at w \+ e are not finite"):
        importance_weights(one.float(), [(x.float() * 1e10, y)], 1e35)
