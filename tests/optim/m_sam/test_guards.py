"""What the one pass can't do is done by the loop, or refused: never wrong without a word."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM
from lowland.optim.m_sam import RULES
from lowland.optim.m_sam.layers.linear import Linear
from tests.optim.textbook import m_sam

from .against_the_definition import assert_by_the_loop, assert_silent
from .against_the_loop import by_both, relative_error
from .networks import N, rand


class Square(torch.autograd.Function):
    """Hands its parameter to autograd where nobody sees it."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w.square()

    @staticmethod
    def backward(ctx, d):
        x, w = ctx.saved_tensors
        return d * w.square(), (2 * d * x * w).flatten(0, -2).sum(0)


class Layer(nn.Module):
    def __init__(self, function, *shape):
        super().__init__()
        self.w, self.function = nn.Parameter(rand(*shape)), function

    def forward(self, x):
        return self.function(x, self.w)


def in_place(x, w):
    x = x + 0
    x.clamp_(max=w)
    return x


BY_THE_LOOP = {
    "a function of autograd's": (lambda: Layer(Square.apply, 4), "Square, a function of autograd's own, .* takes rows"),
    "in another order": (lambda: Layer(lambda x, w: (x.flip(0) * w).flip(0), 4), "flip .*, which mixes the examples"),
    "data": (lambda: Layer(lambda x, w: x * w.data * w, 4), "data of 1.w"),
    "in place": (lambda: Layer(in_place, 4), "writes in place"),
    "its value": (lambda: Layer(lambda x, w: x * w * float(w[0]), 4), "item|float"),
    "list": (lambda: Layer(lambda x, w: x * w * w.tolist()[0], 4), "tolist"),
}


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("name", BY_THE_LOOP)
def test_goes_by_the_loop_and_says_why(name, m):
    torch.manual_seed(0)
    make, why = BY_THE_LOOP[name]
    middle = make()
    model = nn.ModuleList([nn.Linear(4, 4), middle]).double()
    x = rand(N, 5, 4)

    def losses():
        y = middle(model[0](x))
        return (y[0] if isinstance(y, tuple) else y).square().sum((1, 2))

    with pytest.warns(UserWarning, match=f"group by group.*({why})") as said:
        (ours, loss), (theirs, expected), optimizer = by_both(model, losses, m, rho=0.1)
    assert relative_error(ours, theirs) < 1e-9
    assert loss == expected
    assert len([w for w in said if "group by group" in str(w.message)]) == 1
    assert all(type(p) is nn.Parameter for p in model.parameters())
    with warnings.catch_warnings():  # once
        warnings.filterwarnings("error", message="m-SAM")
        optimizer.backward(losses)


def test_a_function_without_a_rule_is_named_once():
    torch.manual_seed(0)
    model, x = Layer(torch.cdist, 1, 2, 5).double(), rand(N, 3, 5)
    with pytest.warns(UserWarning, match=r"cdist of w has no rule.*7 groups.*MB") as said:
        (ours, _), (theirs, _), _ = by_both(model, lambda: model(x).square().sum((1, 2)), 1)
    assert len([w for w in said if "no rule" in str(w.message)]) == 1
    assert relative_error(ours, theirs) < 1e-9


def contrastive(z, _):
    return -(z @ z.T).log_softmax(1).diagonal()


def normalized_over_the_batch(z, _):
    return ((z - z.mean(0)) / z.std(0)).pow(4).sum(1)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("loss", [contrastive, normalized_over_the_batch])
def test_losses_that_couple_examples_are_refused(loss, m):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y = rand(N, 4), None
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=m)
    with pytest.raises(ValueError, match="that of one example alone"):
        optimizer.step(lambda: loss(model(x), y))
    assert all(p.grad is None and type(p) is nn.Parameter for p in model.parameters())


def pairs(z, _):
    return (z - z.roll(1, 0)).square().sum(1)


def nearest(z, _):
    far = torch.full((len(z),), 1e9).diag().to(z)
    return ((z[:, None] - z).square().sum(2) + far).min(1).values


def within_groups(z, _):
    z = z.unflatten(0, (-1, 2))
    return (z - z.roll(1, 1)).square().sum(2).flatten()


@pytest.mark.parametrize("loss", [pairs, nearest, within_groups])
def test_losses_that_couple_a_few_examples_are_rows_of_the_whole_batch(loss):
    torch.manual_seed(0)
    model, x, m = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), rand(8, 4), 2

    def by_definition(losses):
        """m-SAM's gradient, for ``losses(rows)`` of a group."""
        found = m_sam(lambda rows: losses(rows).mean(), list(model.parameters()), 8, m, 0.5)
        return torch.cat([g.flatten() for g in found])

    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=m)
    with pytest.warns(UserWarning, match="group by group.*The result is the same"):
        optimizer.backward(lambda: loss(model(x), None))
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])
    rows = by_definition(lambda rows: loss(model(x), None)[rows])
    alone = by_definition(lambda rows: loss(model(x[rows]), None))
    assert (ours - rows).norm() < 1e-9 * rows.norm()
    assert ((ours - alone).norm() < 1e-9 * rows.norm()) == (loss is within_groups)
    if loss is pairs:  # one group that reaches every example is an error, like losses that couple all
        optimizer.m = 7
        with pytest.raises(ValueError, match="that of one example alone"):
            optimizer.backward(lambda: loss(model(x), None))


def test_a_wrong_rule_is_found(monkeypatch):
    class Wrong(Linear):
        def perturbed(self, use, watch):
            return super().perturbed(use, watch) * 1.001

    model, x = nn.Linear(4, 3).double(), rand(N, 4)
    monkeypatch.setitem(RULES, F.linear, Wrong())
    with pytest.warns(UserWarning, match=r"gradient of (weight|bias) at w"):
        (ours, _), (theirs, _), optimizer = by_both(model, lambda: model(x).square().sum(1), 2)
    assert relative_error(ours, theirs) < 1e-9
    assert not optimizer._own.engine.learnt.audits.audited
    (ours, _), (theirs, _), _ = by_both(model, lambda: model(x).square().sum(1), 2, audit=False)
    assert relative_error(ours, theirs) > 1e-4


def test_the_audit_says_what_it_cost():
    model, x = nn.Linear(4, 3).double(), rand(N, 4)
    *_, optimizer = by_both(model, lambda: model(x).square().sum(1), 2)
    assert "7 evaluations of it" in optimizer._own.engine.learnt.audits.cost


def test_a_closure_that_ran_backward():
    model, x = nn.Linear(4, 3).double(), rand(N, 4)

    def closure():
        losses = model(x).square().sum(1)
        losses.mean().backward(retain_graph=True)
        return losses

    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=1)
    with pytest.raises(ValueError, match="ran backward"):
        optimizer.step(closure)
    assert all(p.grad is None for p in model.parameters())


def test_an_exception_in_the_closure_leaves_everything_as_it_was():
    model, x = nn.Linear(4, 3).double(), rand(N, 4)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=1)
    before, calls, limit = [p.clone() for p in model.parameters()], [], [0]

    def closure():
        calls.append(0)
        if len(calls) == limit[0]:
            raise KeyError
        return model(x).square().sum(1)

    for limit[0] in range(1, 7):
        calls.clear()
        optimizer._own.engine = None
        with pytest.raises(KeyError):
            optimizer.step(closure)
        assert all(type(p) is nn.Parameter and p.grad is None for p in model.parameters())
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert optimizer.under_way is None
    calls.clear()
    limit[0] = 100
    optimizer.step(closure)
    assert optimizer.steps == 1


def test_a_distribution_checks_its_arguments_without_a_word():
    """It reads values for an error or nothing; one's own constraint may do anything."""
    model, x = nn.Linear(3, 2).double(), rand(N, 3)

    def losses():
        z = model(x)
        return -torch.distributions.Normal(z, z.exp(), validate_args=True).log_prob(torch.ones_like(z)).sum(1)

    assert_silent(model, losses, 2)

    class Reading(torch.distributions.Normal):
        def __init__(self, mean):
            super().__init__(mean, 2.0 if mean.sum() > 0 else 1.0)

    assert_by_the_loop(model, lambda: -Reading(model(x)).log_prob(x[:, :2]).sum(1), 2)
