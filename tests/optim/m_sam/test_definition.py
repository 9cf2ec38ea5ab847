"""m-SAM against its definition: every group of m consecutive examples climbs for itself."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM, MSam, ascent, presets

from .. import textbook, textbook_family
from ..training import assert_equal, batch, climb_and_descend, network, sgd
from .networks import Clipped


def by_definition(model, x, y, m, rho, params=None, **options):
    def loss_of(rows):
        return F.cross_entropy(model(x[rows]), y[rows])

    return textbook.m_sam(loss_of, [*model.parameters()] if params is None else params, len(x), m, rho, **options)


def test_an_integer_of_numpy_and_an_empty_batch():
    model = torch.nn.Linear(3, 2)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model, m=np.int64(2))
    assert type(optimizer.m) is int
    x = torch.ones(0, 3)
    with pytest.raises(ValueError, match="the batch is empty"):
        optimizer.step(lambda: model(x).sum(1))


def test_what_belongs_to_m_in_one_argument():
    found = []
    for settings in (
        {"m": MSam(m=2, audit=False, perturbed_norms=True)},
        {"m": 2, "audit": False, "perturbed_norms": True},
    ):
        model = network()
        optimizer = SAM(sgd(model), rho=0.3, model=model, **settings)
        x, y = batch()
        optimizer.step(lambda model=model, x=x, y=y: F.cross_entropy(model(x), y, reduction="none"))
        assert (optimizer.m, optimizer.audit, optimizer.memory_limit, optimizer.perturbed_norms) == (
            2,
            False,
            None,
            True,
        )
        assert copy.deepcopy(optimizer).audit is False
        found.append((model, optimizer.last.perturbed_gradient_norms))
    assert_equal(found[0][0], found[1][0], tol=0)
    assert torch.equal(found[0][1], found[1][1])
    optimizer.audit = True
    assert (optimizer.m, optimizer.audit, optimizer.perturbed_norms) == (2, True, True)
    optimizer.m = MSam(m=3, memory_limit=1e6)
    assert (optimizer.m, optimizer.memory_limit, optimizer.perturbed_norms) == (3, 1e6, False)
    assert presets.ASAM(sgd(model), model=model, m=MSam(m=1)).m == 1
    assert SAM(sgd(model), m=MSam(audit=False)).m is None


@pytest.mark.parametrize("other", [{"audit": False}, {"memory_limit": 100}, {"perturbed_norms": True}])
def test_what_belongs_to_m_given_twice(other):
    model = network()
    with pytest.raises(ValueError, match=f"{next(iter(other))} is given twice"):
        SAM(sgd(model), model=model, m=MSam(m=1), **other)


@pytest.mark.parametrize(
    ("given", "says"), [({"m": 0}, "at least 1"), ({"m": 1.0}, "at least 1"), ({"memory_limit": 0}, "memory_limit")]
)
def test_what_m_sam_cannot_be(given, says):
    with pytest.raises(ValueError, match=says):
        MSam(**given)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("m", [1, 4])
def test_an_overflow_in_the_first_batch_puts_the_audit_off(m):
    """What a scaler begins with overflows, and infinities are equal to nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.2, model=model, m=m)
    scaler, x, y = torch.amp.GradScaler("cpu", init_scale=2.0**20), torch.randn(12, 6), torch.arange(12) % 4
    evaluations = []

    def closure():
        evaluations[-1] += 1
        with torch.autocast("cpu", dtype=torch.float16):
            return F.cross_entropy(model(x), y, reduction="none")

    for _ in range(9):
        evaluations.append(0)
        optimizer.backward(closure, scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert optimizer.steps < 9  # some overflowed
    assert optimizer._own.engine.learnt.audits.audited
    assert evaluations[-1] == 2


@pytest.mark.parametrize("m", [1, 3, 5, 12, 100])
def test_equals_the_definition(m):
    ours, expected = network(), network()
    optimizer, base = SAM(sgd(ours), rho=0.3, model=ours, m=m), sgd(expected)
    for step in range(4):
        x, y = batch(step)
        loss = optimizer.step(lambda x=x, y=y: F.cross_entropy(ours(x), y, reduction="none"))
        torch.testing.assert_close(loss, F.cross_entropy(expected(x), y).detach())
        textbook.descend(base, expected.parameters(), by_definition(expected, x, y, m, 0.3))
    assert_equal(ours, expected)
    assert optimizer.steps == 4


RULES = {
    "unnormalized": (ascent.Unnormalized(), lambda *a: textbook_family.usam(*a, 0.3)),
    "adaptive": (ascent.Adaptive(0.0, biases=True), lambda *a: textbook_family.asam(*a, 0.3, [False] * 4, eta=0.0)),
    "several steps": (ascent.MultiStep(3), lambda *a: textbook_family.multi_step(*a, 0.3, 3, 0.2)),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_other_ascent_rules(name, scaled):
    rule, gradient = RULES[name]
    ours, expected = network(), network()
    optimizer, base = SAM(sgd(ours), rho=0.3, model=ours, m=5, ascent=rule), sgd(expected)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaled)
    params = list(expected.parameters())
    for step in range(3):
        x, y = batch(step)
        optimizer.backward(lambda x=x, y=y: F.cross_entropy(ours(x), y, reduction="none"), scaler)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        total = [torch.zeros_like(p) for p in params]
        for a, b in zip(x.split(5), y.split(5), strict=True):
            part = gradient(lambda a=a, b=b: F.cross_entropy(expected(a), b), params)
            total = [t + len(a) / len(x) * g for t, g in zip(total, part, strict=True)]
        textbook.descend(base, params, total)
    assert_equal(ours, expected)


def test_accumulation():
    ours, expected = network(), network()
    optimizer = SAM(sgd(ours), rho=0.3, model=ours, m=2)
    total = [torch.zeros_like(p) for p in ours.parameters()]
    for step in range(3):
        x, y = batch(step)
        optimizer.backward(lambda x=x, y=y: F.cross_entropy(ours(x), y, reduction="none"))
        total = [t + g for t, g in zip(total, by_definition(expected, x, y, 2, 0.3), strict=True)]
    for p, t in zip(ours.parameters(), total, strict=True):
        torch.testing.assert_close(p.grad, t)


class Clipper(nn.Module):
    def forward(self, x):
        return Clipped.apply(x)


@pytest.mark.filterwarnings("ignore:m-SAM")
@pytest.mark.parametrize("m", [2, 5])
def test_a_backward_that_is_not_linear(m):
    model = nn.Sequential(network(), Clipper())
    optimizer = SAM(sgd(model), rho=0.3, model=model, m=m)
    x, y = batch()
    expected = by_definition(model, x, y, m, 0.3)
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward(lambda: F.cross_entropy(model(x), y, reduction="none"))
        for p, g in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, g)
            assert not p._backward_hooks


@pytest.mark.filterwarnings("ignore:m-SAM")
@pytest.mark.parametrize("m", [2, 5])
def test_a_gradient_hook_that_is_not_linear(m):
    model = network()
    x, y = batch()
    for p in model.parameters():
        p.register_hook(lambda g: g.clamp(-0.01, 0.01))
    optimizer = SAM(sgd(model), rho=0.3, model=model, m=m)
    optimizer.backward(lambda: F.cross_entropy(model(x), y, reduction="none"))
    expected = by_definition(model, x, y, m, 0.3, evaluate=textbook.by_backward)
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_a_hook_on_sums_over_groups_is_refused():
    model = network()
    x, y = batch()
    next(model.parameters()).register_post_accumulate_grad_hook(lambda p: p.grad.mul_(2))
    with pytest.raises(ValueError, match="register_post_accumulate_grad_hook"):
        SAM(sgd(model), rho=0.3, model=model, m=2).step(lambda: F.cross_entropy(model(x), y, reduction="none"))


@pytest.mark.filterwarnings("ignore:m-SAM")
def test_a_scripted_model():
    model, x, y = network(), *batch()
    expected = by_definition(model, x, y, 2, 0.3)
    scripted = torch.jit.script(model)
    SAM(sgd(scripted), rho=0.3, model=scripted, m=2).backward(lambda: F.cross_entropy(scripted(x), y, reduction="none"))
    for p, g in zip(scripted.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.filterwarnings("ignore:m-SAM")
@pytest.mark.parametrize("audit", [True, False])
@pytest.mark.parametrize("m", [None, 2, 5])
@pytest.mark.parametrize("clips", [False, True])
def test_parameters_of_another_optimizer_get_the_gradient_of_the_last_pass(m, audit, clips):
    """They don't climb. ``clips``: by the loop."""
    model = nn.Sequential(*network(), Clipper()) if clips else nn.Sequential(*network())
    head = list(model[-2 if clips else -1].parameters())
    others = [p for p in model.parameters() if all(p is not q for q in head)]
    optimizer = SAM(sgd(model[-2 if clips else -1]), rho=0.3, model=model, m=m, audit=audit)
    x, y = batch()
    expected = by_definition(model, x, y, m or len(x), 0.3, params=head, wanted=[*head, *others])
    for times in (1, 2):
        if m is None:
            climb_and_descend(optimizer, lambda: F.cross_entropy(model(x), y))
        else:
            optimizer.backward(lambda: F.cross_entropy(model(x), y, reduction="none"))
        for p, g in zip([*head, *others], expected, strict=True):
            torch.testing.assert_close(p.grad, times * g)


def test_dropout_leaves_out_the_same_units_everywhere():
    masks = []

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            masks.append(F.dropout(torch.ones_like(x), 0.5))
            return self.net(x * masks[-1])

    model = Dropping()
    optimizer = SAM(sgd(model), rho=0.3, model=model, m=4)
    x, y = batch()
    for _ in range(2):
        optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))
    first, second = masks[:-2], masks[-2:]  # the first step looks for the batch's size, and checks itself
    assert len(first) > 2
    assert all(torch.equal(mask, first[0]) for mask in first)
    assert all(torch.equal(mask, second[0]) for mask in second)
    assert not torch.equal(first[0], second[0])


def test_misuse_says_what_to_do():
    model, other = network(), network()
    x, y = batch()
    with pytest.raises(ValueError, match="m needs model="):
        SAM(sgd(model), m=1)
    with pytest.raises(ValueError, match="another model"):
        SAM(sgd(model), model=other, m=1)
    both = [*model.parameters(), *other.parameters()]
    with pytest.raises(ValueError, match="must be the model's"):
        SAM(sgd(both), model=other, m=1)
    for m in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="at least 1"):
            SAM(sgd(model), model=model, m=m)
    optimizer = SAM(sgd(model), model=model, m=1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="loss of each example"):
        optimizer.step(lambda: F.cross_entropy(model(x), y))
    for call in (optimizer.ascent, lambda: next(optimizer.passes())):
        with pytest.raises(RuntimeError, match="with m use"):
            call()
    with pytest.raises(RuntimeError, match="give SAM an m"):
        SAM(sgd(model)).backward(lambda: F.cross_entropy(model(x), y, reduction="none"))
    normed = nn.Sequential(nn.BatchNorm1d(5), model).double()
    with pytest.raises(ValueError, match=r"batch norm \(0.* has one value a channel .* take m of at least 2"):
        SAM(sgd(normed), model=normed, m=1).step(lambda: F.cross_entropy(normed(x), y, reduction="none"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
