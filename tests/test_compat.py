"""Loops written for ``first_step`` and ``second_step``, against the textbook; and what is mended of them."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowland import compat

from .optim import textbook
from .optim.training import assert_equal, losses, network, sgd

OPTIONS = {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01}


def make(network, **options):
    return compat.SAM(network.parameters(), torch.optim.SGD, **{"rho": 0.3} | OPTIONS | options)


def two_steps(optimizer, loss_fn):
    loss_fn().backward()
    optimizer.first_step(zero_grad=True)
    loss_fn().backward()
    optimizer.second_step(zero_grad=True)


def step_with_closure(optimizer, loss_fn):
    loss_fn().backward()
    optimizer.step(lambda: loss_fn().backward())
    optimizer.zero_grad()


@pytest.mark.parametrize("way", [two_steps, step_with_closure])
def test_an_existing_loop_runs_unchanged(way):
    ours, expected = network(), network()
    optimizer = make(ours)
    assert optimizer.base_optimizer.param_groups is optimizer.param_groups
    for loss_fn in losses(ours):
        way(optimizer, loss_fn)
    textbook.train(expected, sgd(expected), losses(expected), 0.3)
    assert_equal(ours, expected)


def test_gradients_that_are_not_cleared_are_added_to():
    ours = network()
    optimizer = make(ours)
    (loss_fn,) = losses(ours, 1)
    loss_fn().backward()
    first = [p.grad.clone() for p in ours.parameters()]
    optimizer.first_step()
    loss_fn().backward()
    second = textbook.gradient(losses(ours, 1)[0], list(ours.parameters()), 0.0)
    for p, a, b in zip(ours.parameters(), first, second, strict=True):
        torch.testing.assert_close(p.grad, a + b)
    optimizer.second_step()
    assert ours[0].weight.grad is not None


def test_adaptive_by_group():
    ours, expected = network(), network()
    groups = [{"params": ours[0].parameters(), "adaptive": True, "rho": 2.0}, {"params": ours[2].parameters()}]
    optimizer = compat.SAM(groups, torch.optim.SGD, rho=0.3, **OPTIONS)
    base, params = sgd(expected), list(expected.parameters())
    for ours_loss, expected_loss in zip(losses(ours), losses(expected), strict=True):
        two_steps(optimizer, ours_loss)
        g = torch.autograd.grad(expected_loss(), params)
        weights = [p.detach().clone() for p in params]
        t = [w.abs() if i < 2 else torch.ones_like(w) for i, w in enumerate(weights)]
        norm = torch.stack([(a * b).square().sum() for a, b in zip(t, g, strict=True)]).sum().sqrt() + 1e-12
        for i, p in enumerate(params):
            p.data = p + (2.0 if i < 2 else 0.3) * t[i] ** 2 * g[i] / norm
        for p, grad, w in zip(params, torch.autograd.grad(expected_loss(), params), weights, strict=True):
            p.data, p.grad = w, grad
        base.step()
    assert_equal(ours, expected)


def test_what_is_mended():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    optimizer = make(model, model=model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    loss_fn, again = losses(model, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two_steps(optimizer, loss_fn)
        step_with_closure(optimizer, again)
        schedule.step()
    assert len(steps) == 2
    assert model[1].num_batches_tracked == 2
    assert "old_p" not in optimizer.state_dict()["state"][0]
    before = [p.detach().clone() for p in model.parameters()]
    (loss_fn() * float("inf")).backward()
    optimizer.first_step(zero_grad=True)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    loss_fn().backward()
    optimizer.second_step(zero_grad=True)
    for other_model, other in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        two_steps(other, losses(other_model, 1)[0])


def test_autocast_in_one_region():
    models = network(torch.float32), network(torch.float32)
    x, y = torch.randn(9, 5), torch.arange(9) % 3
    for one, model in zip((True, False), models, strict=True):
        optimizer = make(model, rho=2.0)
        bf16 = {"device_type": "cpu", "dtype": torch.bfloat16}

        def loss_fn(model=model, bf16=bf16):
            with torch.autocast(**bf16):
                return F.cross_entropy(model(x), y)

        with torch.autocast(enabled=one, **bf16):
            two_steps(optimizer, loss_fn)
    assert_equal(*models, tol=0)


def test_exceptions():
    model = network()
    optimizer = make(model)
    (loss_fn,) = losses(model, 1)
    before = [p.detach().clone() for p in model.parameters()]
    loss_fn().backward()

    def out_of_memory():
        raise MemoryError

    with pytest.raises(MemoryError):
        optimizer.step(out_of_memory)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    loss_fn().backward()
    optimizer.first_step(zero_grad=True)
    optimizer.restore()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    loss_fn().backward()
    optimizer.first_step(zero_grad=True)
    loss_fn().backward()
    with pytest.warns(UserWarning, match="still perturbed"):
        optimizer.first_step(zero_grad=True)
    loss_fn().backward()
    optimizer.second_step(zero_grad=True)


def test_step_in_the_middle_is_refused():
    model = network()
    optimizer = make(model)
    (loss_fn,) = losses(model, 1)
    loss_fn().backward()
    optimizer.first_step(zero_grad=True)
    loss_fn().backward()
    with pytest.raises(RuntimeError, match="second_step"):
        optimizer.step()
    optimizer.second_step(zero_grad=True)
    with optimizer.ascent():
        loss_fn().backward()
        with pytest.raises(RuntimeError, match="inside the ascent"):
            optimizer.first_step()


def test_checkpoints_of_others_load():
    model = network()
    optimizer = compat.SAM(model.parameters(), torch.optim.Adam, lr=0.1)
    state = optimizer.state_dict()
    state["state"] = {i: {"old_p": p.detach().clone()} for i, p in enumerate(model.parameters())}
    optimizer.load_state_dict(state)
    two_steps(optimizer, losses(model, 1)[0])


def test_misuse_says_what_to_do():
    model = network()
    with pytest.raises(TypeError, match="is a class here"):
        compat.SAM(model.parameters(), sgd(model))
    optimizer = make(model)
    with pytest.raises(RuntimeError, match=r"loss.backward\(\) before"):
        optimizer.first_step()
    with pytest.raises(RuntimeError, match=r"needs a first_step\(\)"):
        optimizer.second_step()
    with pytest.raises(ValueError, match="rho"):
        make(model, rho=-1.0)
