"""Caches of functions of the weights, kept around a whole step: every pass computes them of its own weights."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from lowland import SAM, compat
from lowland.optim import presets

from .test_training_setups import assert_equal, batch, sgd


class Affine(nn.Module):
    """Backward needs nothing of its forward pass, so that autograd doesn't notice when it is used twice."""

    def forward(self, x):
        return 2 * x + 1


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    parametrize.register_parametrization(net[0], "weight", Affine())
    parametrizations.weight_norm(net[2])
    return net


def passes(optimizer, loss_fn):
    for evaluation in optimizer.passes():
        with evaluation:
            loss_fn().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def by_name(optimizer, loss_fn):
    with optimizer.ascent():
        loss_fn().mean().backward()
    with optimizer.perturbed():
        loss_fn().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def closure(optimizer, loss_fn):
    def closure():
        loss = loss_fn().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def examples(optimizer, loss_fn):
    optimizer.step(loss_fn)


def two_steps(optimizer, loss_fn):
    loss_fn().mean().backward()
    optimizer.first_step(zero_grad=True)
    loss_fn().mean().backward()
    optimizer.second_step(zero_grad=True)


WAYS = {
    "passes": (SAM, {}, passes),
    "by name": (SAM, {}, by_name),
    "closure": (SAM, {}, closure),
    "several steps": (presets.MultiStepSAM, {}, passes),
    "both gradients": (presets.GSAM, {}, passes),
    "momentum": (presets.MomentumSAM, {}, passes),
    "rho 0": (SAM, {"rho": 0.0}, passes),
    "chosen examples": (presets.ESAM, {}, examples),
    "groups together": (SAM, {"m": 4}, examples),
    "groups in a loop": (presets.MultiStepSAM, {"m": 4}, examples),
    "first_step": (lambda base, model, rho: compat.SAM(model.parameters(), type(base), rho, lr=0.2), {}, two_steps),
}


@pytest.mark.parametrize("around", ["a step", "several steps"])
@pytest.mark.parametrize("way", WAYS)
def test_parametrized_weights_cached_around(way, around):
    build, settings, step = WAYS[way]
    models = network(), network()
    for model, cached in zip(models, (True, False), strict=True):
        optimizer = build(sgd(model), model=model, **{"rho": 0.5} | settings)
        with parametrize.cached() if cached and around != "a step" else contextlib.nullcontext():
            for index in range(3):
                x, y = batch(index)
                with parametrize.cached() if cached else contextlib.nullcontext():
                    step(optimizer, lambda model=model, x=x, y=y: F.cross_entropy(model(x), y, reduction="none"))
        if cached and around != "a step":
            assert parametrize._cache_enabled == 0
    assert_equal(*models, tol=0 if "groups" not in way else 1e-12)


def test_an_exception_in_a_pass_leaves_none_of_w_plus_e():
    model = network()
    x, _ = batch()
    with torch.no_grad():
        expected = copy.deepcopy(model)(x)
    optimizer = SAM(sgd(model), rho=0.5)
    with parametrize.cached():
        with optimizer.ascent():
            model(x).square().mean().backward()
        with contextlib.suppress(MemoryError), optimizer.perturbed():
            assert not torch.equal(model(x), expected)
            raise MemoryError
        assert torch.equal(model(x), expected)
