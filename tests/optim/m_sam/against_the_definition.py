"""The gradient of one pass against m-SAM's definition, through the same closure, in float64."""

import warnings

import torch

from lowland.optim import SAM
from tests.optim import textbook

from .against_the_loop import relative_error


def by_definition(model, losses, m):
    """m-SAM's gradient through the same closure."""
    params = [p for p in model.parameters() if p.requires_grad]
    size = len(losses())
    return textbook.m_sam(lambda rows: losses()[rows].mean(), params, size, m, 0.1, evaluate=textbook.by_backward)


def optimizer_of(model, m=1, **options):
    params = [p for p in model.parameters() if p.requires_grad]
    return SAM(torch.optim.SGD(params, lr=1.0), rho=0.1, model=model, m=m, **options)


def check(model, optimizer, losses, m=1):
    """That the gradient is m-SAM's; what was said."""
    optimizer.zero_grad()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        optimizer.backward(losses)
    expected = by_definition(model, losses, m)
    ours = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    assert relative_error(ours, expected) < 1e-9
    return [str(w.message) for w in said if "m-SAM" in str(w.message)]


def assert_silent(model, losses, m=1, **options):
    """That the one pass was taken, is right, and said nothing but that a group is large."""
    for p in model.parameters():
        p.grad = None
    optimizer = optimizer_of(model, m, **options)
    said = check(model, optimizer, losses, m)
    assert not [line for line in said if "one group takes" not in line]
    assert optimizer.last is not None


def assert_by_the_loop(model, losses, m=1, **options):
    """That the loop was taken, with one line, and is right."""
    (said,) = check(model, optimizer_of(model, m, **options), losses, m)
    assert "group by group" in said
