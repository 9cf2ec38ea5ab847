"""The loop over slices of the batch: each group is evaluated by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM, ascent
from lowland.optim.m_sam import Sliced

from .against_the_definition import by_definition, check, optimizer_of
from .against_the_loop import relative_error
from .networks import perceptron, rand


def reading(model, x, y):
    """Losses that Python reads a value of, and the number of rows in each evaluation."""
    seen = []

    def losses(rows):
        z = model(x[rows])
        seen.append(len(z))
        return F.cross_entropy(z, y[rows], reduction="none") * (1 if z.sum().item() > -1e9 else 2)

    return losses, seen


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 10))
def test_is_the_definition(n, m):
    model, x, y = perceptron(nn.Tanh()), rand(n, 5), torch.arange(n) % 3
    losses, seen = reading(model, x, y)
    optimizer, closure = optimizer_of(model, m), Sliced(losses, n)
    check(model, optimizer, closure, m)
    for p in model.parameters():
        p.grad = None
    seen.clear()
    mean = optimizer.backward(closure)
    sizes = [len(rows) for rows in x.split(m)]
    assert seen == [size for size in sizes for _ in range(2)]
    torch.testing.assert_close(mean, closure().mean().detach())
    assert relative_error([p.grad for p in model.parameters()], by_definition(model, closure, m)) < 1e-9


def test_the_one_pass_is_taken_all_the_same():
    model, x, y = perceptron(nn.Tanh()), rand(6, 5), torch.arange(6) % 3
    optimizer = optimizer_of(model, 2)
    closure = Sliced(lambda rows: F.cross_entropy(model(x[rows]), y[rows], reduction="none"), 6)
    assert not check(model, optimizer, closure, 2)
    assert optimizer.last is not None


def test_the_line_says_what_it_costs():
    model, x, y = perceptron(nn.Tanh()), rand(6, 5), torch.arange(6) % 3
    losses, _ = reading(model, x, y)
    (said,) = check(model, optimizer_of(model, 2), Sliced(losses, 6), 2)
    assert "two evaluations of its examples for each" in said
    (said,) = check(model, optimizer_of(model, 2), lambda: losses(slice(0, 6)), 2)
    assert "two evaluations of the batch for each" in said


def test_a_group_has_the_same_dropout_in_all_its_evaluations():
    model = nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.5)).double()
    x, kept = rand(4, 5), []

    def losses(rows):
        z = model(x[rows])
        kept.append((z.detach() != 0).clone())
        return z.square().sum(1) * (1 if z.sum().item() > -1e9 else 2)

    optimizer = optimizer_of(model, 1, ascent=ascent.MultiStep(2))
    with pytest.warns(UserWarning, match="group by group"):
        optimizer.backward(Sliced(losses, 4))
    evaluations = torch.stack(kept[-12:]).view(4, 3, -1)
    assert (evaluations == evaluations[:, :1]).all()
    assert (evaluations[0] != evaluations[1]).any()


class Counting(nn.Module):
    """Counts its evaluations, of which a step has one."""

    def __init__(self, norm=False):
        super().__init__()
        self.layer, self.norm = nn.Linear(5, 3), nn.BatchNorm1d(3) if norm else nn.Identity()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return self.norm(self.layer(x))


def test_buffers_move_once():
    model, x, y = Counting().double(), rand(6, 5), torch.arange(6) % 3
    losses, _ = reading(model, x, y)
    optimizer = optimizer_of(model, 2)
    for step in (1, 2):
        with pytest.warns(UserWarning, match="group by group") if step == 1 else torch.enable_grad():
            optimizer.step(Sliced(losses, 6))
        assert model.count == step


def test_batch_norm_in_training_evaluates_the_batch():
    model, x, y = Counting(norm=True).double(), rand(6, 5), torch.arange(6) % 3
    losses, seen = reading(model, x, y)
    with pytest.warns(UserWarning, match="two evaluations of the batch for each"):
        optimizer_of(model, 2).backward(Sliced(losses, 6))
    assert set(seen) == {6}


def test_losses_that_ignore_the_slice():
    model, x, y = perceptron(nn.Tanh()), rand(6, 5), torch.arange(6) % 3
    losses, _ = reading(model, x, y)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = SAM(base, rho=0.1, model=model, m=2, audit=False)
    before = [p.detach().clone() for p in model.parameters()]
    with (
        pytest.warns(UserWarning, match="group by group"),
        pytest.raises(ValueError, match=r"losses\(slice\(0, 2\)\) gave \(6,\), where 2 losses are asked for"),
    ):
        optimizer.step(Sliced(lambda rows: losses(slice(0, 6)), 6))
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))
