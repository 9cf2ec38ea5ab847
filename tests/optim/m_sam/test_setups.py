"""Mixed precision, loss scaling and torch.compile."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland.models import Transformer, preact_resnet
from lowland.optim import SAM
from lowland.optim.m_sam import row_wise

from .against_the_loop import assert_exact, by_both, entropy, gradients, relative_error
from .networks import batch, on_the_way_back, perceptron


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("m", [1, 3])
def test_a_scaler(m, l2):
    model = perceptron(nn.Tanh())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert_exact(model, entropy(model, *batch()), m, scaler=scaler, l2=l2)


def image_model():
    return preact_resnet((1, 1, 1, 1), width=4, norm="group"), (torch.randn(6, 3, 8, 8), torch.arange(6))


def text_model():
    tokens = torch.randint(9, (6, 7))
    return Transformer(9, 7, layers=1, width=16, heads=2, key_size=8), (tokens, tokens)


def per_example(model, x, y):
    found = F.cross_entropy(model(x).movedim(-1, 1), y, reduction="none").float()
    return found.mean(1) if found.ndim == 2 else found


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("make", [image_model, text_model])
@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_autocast_is_as_good_as_plain_training_under_it(l2, make, m):
    torch.manual_seed(0)
    model, (x, y) = make()
    exact, wide = copy.deepcopy(model).double(), x.double() if x.is_floating_point() else x

    def cast():
        with torch.autocast("cpu", torch.bfloat16):
            return per_example(model, x, y)

    (ours, _), _, optimizer = by_both(model, cast, m, rho=0.1, l2=l2)
    assert optimizer._own.engine.reason is None
    _, (expected, _), _ = by_both(exact, lambda: per_example(exact, wide, y), m, rho=0.1, l2=l2)
    for net, closure in ((model, cast), (exact, lambda: per_example(exact, wide, y))):
        net.zero_grad()
        closure().mean().backward()
    rounding = relative_error(gradients(model), gradients(exact))
    assert relative_error(ours, expected) < 5 * rounding + 0.01
    assert relative_error(gradients(exact), expected) > 0.05  # it isn't SGD


def test_float32():
    torch.manual_seed(0)
    for make in (image_model, text_model):
        model, (x, y) = make()
        assert_exact(model, lambda model=model, x=x, y=y: per_example(model, x, y), 2, tolerance=1e-4, rho=0.05)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_runs_as_it_was_written(in_place):
    model = perceptron(nn.Tanh())
    compiled = torch.compile(model, backend="eager")
    if in_place:
        compiled = model
        model.compile(backend="eager")
    x, y = batch()
    compiled(x)
    with pytest.warns(UserWarning, match=r"torch\.compile"):
        (ours, _), (theirs, _), optimizer = by_both(compiled, entropy(compiled, x, y), 2)
    assert optimizer._own.engine.reason is None
    assert relative_error(ours, theirs) < 1e-9


Overflow = row_wise(on_the_way_back("Overflow", lambda d: d * torch.inf))


def test_an_overflow_in_the_first_pass_alone_makes_the_scaler_skip():
    model = perceptron(nn.Tanh())
    before = copy.deepcopy(model)
    x, y = batch()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, m=2, audit=False)
    scaler, calls = torch.amp.GradScaler("cpu", init_scale=16.0), []

    def closure():
        calls.append(0)
        found = F.cross_entropy(model(x), y, reduction="none")
        if len(calls) == 2:  # the first only learns the size of the batch
            return Overflow.apply(found)
        return found

    optimizer.backward(closure, scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 8
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))


def test_running_statistics_count_a_batch_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 3, 1), nn.InstanceNorm1d(3, track_running_stats=True), nn.Tanh()).double()
    expected, x = copy.deepcopy(model), torch.randn(6, 3, 5).double()
    expected(x)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, model=model, m=2)
    optimizer.step(lambda: model(x).pow(3).sum((1, 2)))
    assert optimizer._own.engine.reason is None
    torch.testing.assert_close(model[1].running_mean, expected[1].running_mean)
