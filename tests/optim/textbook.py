"""SAM written for reading, in float64 and one process: what every training setup is compared with."""

import math

import torch
from torch import nn

EPS = 1e-12


def grads(loss_fn, params):
    """The gradients of ``loss_fn()``; None where there is none."""
    return list(torch.autograd.grad(loss_fn(), params, allow_unused=True))


def by_backward(loss_fn, params):
    """`grads` by ``backward``, which runs hooks and which reentrant checkpoints need; ``p.grad`` is left alone."""
    held = [p.grad for p in params]
    set_grads(params, [None] * len(params))
    loss_fn().backward()
    found = [p.grad for p in params]
    set_grads(params, held)
    return found


def norm(a):
    return math.sqrt(sum(x.abs().square().sum().item() for x in a if x is not None))


def climb(g, rho, eps=EPS):
    """ε = rho g/(‖g‖ + eps) for the gradients ``g``; ``rho`` is one radius or one for each."""
    rhos, length = rho if isinstance(rho, list) else [rho] * len(g), norm(g) + eps
    return [None if x is None else r * x / length for r, x in zip(rhos, g, strict=True)]


def at(loss_fn, params, displacement, evaluate=grads):
    """``evaluate(loss_fn, params)`` at w + displacement."""
    weights = [p.detach().clone() for p in params]
    with torch.no_grad():
        for p, d in zip(params, displacement, strict=True):
            if d is not None:
                p += d
    result = evaluate(loss_fn, params)
    with torch.no_grad():
        for p, w in zip(params, weights, strict=True):
            p.copy_(w)
    return result


def both(loss_fn, params, rho, eps=EPS, *, ascent=None, wanted=None, evaluate=grads):
    """The gradients of ``loss_fn()`` at w and, after `climb`, at w + ε; ``params`` are left at w.

    ``ascent`` is the loss that is climbed on, where it is another one.
    ``wanted`` are the parameters of the second gradient, where more than those that climb have one.
    """
    g = evaluate(ascent or loss_fn, params)
    return g, at(loss_fn, params, climb(g, rho, eps), lambda f, _: evaluate(f, wanted or params))


def gradient(loss_fn, params, rho, eps=EPS, **options):
    """What SAM descends along: the second gradient of `both`."""
    return both(loss_fn, params, rho, eps, **options)[1]


def by_groups(loss_of, params, size, m, rho, eps=EPS, **options):
    """For each ``m`` of ``size`` examples their share of them, and the gradients of `both`.

    ``loss_of(rows)`` is the mean loss of the examples in a slice.
    """
    for start in range(0, size, m):
        rows = slice(start, min(start + m, size))
        yield (rows.stop - start) / size, *both(lambda rows=rows: loss_of(rows), params, rho, eps, **options)


def m_sam(loss_of, params, size, m, rho, eps=EPS, **options):
    """What m-SAM descends along: each group of `by_groups` climbs for itself. Zeros where there is no gradient."""
    total = [torch.zeros_like(p) for p in options.get("wanted") or params]
    for share, _, part in by_groups(loss_of, params, size, m, rho, eps, **options):
        total = [t if g is None else t + share * g for t, g in zip(total, part, strict=True)]
    return total


def penalized(loss_fn, params, l2):
    """The loss with ½ l2 ‖w‖² written into it."""
    return lambda: loss_fn() + l2 / 2 * sum((p * p.conj()).real.sum() for p in params)


def set_grads(params, gradients):
    for p, g in zip(params, gradients, strict=True):
        p.grad = g


def descend(base, params, gradients):
    """A step of the optimizer ``base`` along ``gradients``."""
    set_grads(params, gradients)
    base.step()


def train(model, base, losses, rho, clip=None, after=None, eps=EPS):
    """Step ``base`` along `gradient` for each of ``losses``: functions, or lists of functions to add up.

    ``rho`` may be a function of the step. Each member of a list climbs for itself.
    """
    params = [p for group in base.param_groups for p in group["params"] if p.requires_grad]
    for step, parts in enumerate(losses):
        radius = rho(step) if callable(rho) else rho
        set_grads(params, [None] * len(params))
        for loss_fn in parts if isinstance(parts, list) else [parts]:
            for p, g in zip(params, gradient(loss_fn, params, radius, eps), strict=True):
                p.grad = g if p.grad is None else p.grad + g
        if clip is not None:
            nn.utils.clip_grad_norm_(params, clip)
        base.step()
        if after is not None:
            after()
    return model
