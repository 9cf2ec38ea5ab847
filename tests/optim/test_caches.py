"""Caches of functions of the weights, kept around a whole step: every pass computes them of its own weights."""

import contextlib
import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from lowland import SAM, compat
from lowland.optim import presets

from .training import assert_equal, batch, by_closure, by_name, by_passes, by_two_steps, sgd


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


def examples(optimizer, loss_fn):
    optimizer.step(loss_fn)


WAYS = {
    "passes": (SAM, {}, by_passes),
    "by name": (SAM, {}, by_name),
    "closure": (SAM, {}, by_closure),
    "several steps": (presets.MultiStepSAM, {}, by_passes),
    "both gradients": (presets.GSAM, {}, by_passes),
    "momentum": (presets.MomentumSAM, {}, by_passes),
    "rho 0": (SAM, {"rho": 0.0}, by_passes),
    "chosen examples": (presets.ESAM, {}, examples),
    "groups together": (SAM, {"m": 4}, examples),
    "groups in a loop": (presets.MultiStepSAM, {"m": 4}, examples),
    "first_step": (lambda base, model, rho: compat.SAM(model.parameters(), type(base), rho, lr=0.2), {}, by_two_steps),
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
                    reduction = "none" if step is examples else "mean"
                    step(
                        optimizer,
                        partial(lambda m, x, y, r: F.cross_entropy(m(x), y, reduction=r), model, x, y, reduction),
                    )
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
