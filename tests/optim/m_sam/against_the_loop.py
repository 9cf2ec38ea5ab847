"""The gradient of one pass against that of the loop over groups, in float64."""

import warnings

import torch
from torch import nn
from torch.nn import functional as F

from lowland.optim import SAM
from lowland.optim.sam import backward_by_definition


def entropy(model, x, y):
    return lambda: F.cross_entropy(model(x), y, reduction="none")


def by_the_loop(optimizer, closure, scaler=None):
    """`SAM.backward`, group by group."""
    return backward_by_definition(optimizer, closure, scaler)


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def by_both(model, closure, m, groups=None, scaler=None, **options):
    """Gradients from the one pass and from the loop, and the optimizer of the former, on the same random numbers."""
    found = []
    for way in ("one pass", "loop"):
        params = list(model.parameters()) if groups is None else [dict(group) for group in groups]
        base = torch.optim.SGD(params, lr=0.1)
        optimizer = SAM(base, **{"rho": 0.5, "model": model, "m": m} | options)
        for p in model.parameters():
            p.grad = None
        torch.manual_seed(7)
        if way == "loop":
            loss = by_the_loop(optimizer, closure, scaler)
        else:
            ours = optimizer
            loss = optimizer.backward(closure, scaler)
        found.append((gradients(model), loss))
    return *found, ours


def relative_error(ours, theirs):
    assert all((a is None) == (b is None) for a, b in zip(ours, theirs, strict=True))
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
    apart = sum((a - b).square().sum() for a, b in pairs).sqrt()
    return float(apart / sum(b.square().sum() for _, b in pairs).sqrt())


def assert_exact(model, closure, m, tolerance=1e-9, **options):
    """That the one pass was taken, and is right; returns its optimizer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="m-SAM(?!: one group)")
        (ours, loss), (theirs, expected), optimizer = by_both(model, closure, m, **options)
    assert optimizer._own.engine.reason is None
    torch.testing.assert_close(loss, expected)
    assert relative_error(ours, theirs) < tolerance
    assert all(type(p) is nn.Parameter for p in model.parameters())
    return optimizer
