"""What the tests of optimizers train, in float64, and the ways to make a step, as loops have them."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

STEPS = 5


def network(dtype=torch.float64, *, norm=None):
    """Of 5 inputs and 3 classes; ``norm`` is a layer's class, before the activation."""
    torch.manual_seed(0)
    norm = [] if norm is None else [norm(8)]
    return nn.Sequential(nn.Linear(5, 8), *norm, nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batch(step=0, n=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(n, 5, generator=generator, dtype=dtype), torch.arange(n) % 3


def loss_on(model, x, y, parts=1):
    return F.cross_entropy(model(x), y) / parts


def losses(model, steps=STEPS, **options):
    """A loss function for each step."""
    return [partial(loss_on, model, *batch(step, **options)) for step in range(steps)]


def sgd(model, **options):
    params = model.parameters() if isinstance(model, nn.Module) else model
    return torch.optim.SGD(params, **{"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01} | options)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same_bits(a, b):
    """Whether two models, or two lists of tensors, are equal."""
    a, b = (list(one.parameters()) if isinstance(one, nn.Module) else one for one in (a, b))
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def assert_equal(model, expected, tol=1e-10):
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tol, atol=tol, msg=lambda m, n=name: f"{n}: {m}")


def climb_and_descend(optimizer, loss_fn, scaler=None):
    """The passes of a step."""
    for evaluation in optimizer.passes(scaler=scaler):
        with evaluation:
            loss = loss_fn()
            (loss if scaler is None else scaler.scale(loss)).backward()


def finish(optimizer, scaler=None, set_to_none=True):
    """What comes after the passes."""
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad() if set_to_none else optimizer.zero_grad(set_to_none=False)


def by_passes(optimizer, loss_fn, scaler=None):
    climb_and_descend(optimizer, loss_fn, scaler)
    finish(optimizer, scaler)


def by_name(optimizer, loss_fn):
    with optimizer.ascent():
        loss_fn().backward()
    with optimizer.perturbed():
        loss_fn().backward()
    finish(optimizer)


def by_closure(optimizer, loss_fn, clears=False):
    def closure():
        if clears:
            optimizer.zero_grad()
        loss = loss_fn()
        loss.backward()
        return loss

    return optimizer.step(closure)


def by_closure_that_clears(optimizer, loss_fn):
    return by_closure(optimizer, loss_fn, clears=True)


def by_two_steps(optimizer, loss_fn):
    """As `lowland.compat` has it."""
    loss_fn().backward()
    optimizer.first_step(zero_grad=True)
    loss_fn().backward()
    optimizer.second_step(zero_grad=True)


def train(model, optimizer, loss_fns, after=None):
    """`by_passes` for each loss function; ``after()`` comes after each. Returns the model."""
    for loss_fn in loss_fns:
        by_passes(optimizer, loss_fn)
        if after is not None:
            after()
    return model
