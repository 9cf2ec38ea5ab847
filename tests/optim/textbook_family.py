"""The SAM family written for reading, in plain torch: what the fast versions are compared with, in float64.

Each rule returns the gradients to descend along, one for each of ``params`` (None where there is none), and leaves
``params`` at w. ``loss_fn()`` is the batch's loss as a function of the parameters; what outlives a step is in
``state``, a dict that starts empty.
"""

import math

import torch

from .textbook import EPS, at, climb, grads, norm
from .textbook import gradient as sam


def dot(a, b):
    return sum((x * y).sum().item() for x, y in zip(a, b, strict=True) if x is not None and y is not None)


def plus(a, factor, b):
    """A + factor * b; None stands for zero, and two of them for None."""
    return [x if y is None else factor * y if x is None else x + factor * y for x, y in zip(a, b, strict=True)]


def times(factor, a):
    return [None if x is None else factor * x for x in a]


# The climb differs, the descent is the gradient at w + e.


def usam(loss_fn, params, rho):
    return at(loss_fn, params, times(rho, grads(loss_fn, params)))


def asam(loss_fn, params, rho, biases, eta=0.01, eps=EPS):
    """``biases``: for each parameter whether it is one; those climb as in SAM."""
    scale = [torch.ones_like(p) if b else p.detach().abs() + eta for p, b in zip(params, biases, strict=True)]
    scaled = [None if g is None else t * g for t, g in zip(scale, grads(loss_fn, params), strict=True)]
    length = norm(scaled)
    e = [None if s is None else rho * t * s / (length + eps) for t, s in zip(scale, scaled, strict=True)]
    return at(loss_fn, params, e)


def multi_step(loss_fn, params, rho, steps=20, step_size=None, eps=EPS):
    """``step_size`` in units of weights; each step along a unit gradient, then back into the ball."""
    step_size = 0.1 * rho if step_size is None else step_size
    e = [torch.zeros_like(p) for p in params]
    for _ in range(steps):
        e = plus(e, 1, climb(at(loss_fn, params, e), step_size, eps))
        if norm(e) > rho:
            e = times(rho / norm(e), e)
    return at(loss_fn, params, e)


def previous_batch(loss_fn, params, state, rho, eps=EPS):
    """The batch before last step's climbs, at the present weights; the first step climbs on its own."""
    climb_on = state.get("loss_fn", loss_fn)
    state["loss_fn"] = loss_fn
    return at(loss_fn, params, climb(grads(climb_on, params), rho, eps))


def stale_gradient(loss_fn, params, state, rho, eps=EPS):
    """Along the last descent gradient, computed at the last step's weights; the first step doesn't climb."""
    e = climb(state["descent"], rho, eps) if "descent" in state else [None] * len(params)
    state["descent"] = at(loss_fn, params, e)
    return state["descent"]


def random_direction(loss_fn, params, rho, direction, eps=EPS):
    return at(loss_fn, params, climb(direction, rho, eps))


def friendly(loss_fn, params, state, rho, sigma=1.0, lmbda=0.9, eps=EPS):
    """As in the authors' code: along the old average, which starts as the first gradient, after plain SAM."""
    ascent = grads(loss_fn, params)
    if "average" in state:
        direction = plus(ascent, -sigma, state["average"])
        state["average"] = plus(times(lmbda, state["average"]), 1 - lmbda, ascent)
    else:
        direction = state["average"] = ascent
    return at(loss_fn, params, climb(direction, rho, eps))


def momentum(loss_fn, params, rho, buffers, eps=EPS):
    """``buffers``: SGD's momentum_buffer, or Adam's exp_avg, before this step; None where there is none yet."""
    return at(loss_fn, params, climb(buffers, -rho, eps))


def only(loss_fn, params, rho, perturbed, eps=EPS):
    """SAM-ON, last layer, no-norm: ``perturbed`` says for each parameter whether it climbs; the norm is over those."""
    ascent = [g if chosen else None for g, chosen in zip(grads(loss_fn, params), perturbed, strict=True)]
    return at(loss_fn, params, climb(ascent, rho, eps))


def loss_equated(loss_fn, params, sigma, rho_max=math.inf, eps=EPS):
    """As the authors' code has it: eps inside the root, and in each division."""
    ascent = grads(loss_fn, params)
    length = math.sqrt(dot(ascent, ascent) + eps)
    rho = min(sigma / (length + eps), rho_max)
    return at(loss_fn, params, times(rho / (length + eps), ascent))


# The descent differs as well.


def surrogate_gap(loss_fn, params, rho, alpha, eps=EPS):
    """GSAM: minus alpha times the part of the clean gradient that is orthogonal to the perturbed one."""
    clean = grads(loss_fn, params)
    perturbed = at(loss_fn, params, climb(clean, rho, eps))
    squared = dot(perturbed, perturbed)
    orthogonal = plus(clean, -dot(clean, perturbed) / squared if squared else 0.0, perturbed)
    return plus(perturbed, -alpha, orthogonal)


def look(loss_fn, params, state, rho, k=5, alpha=0.7, eps=EPS):
    """LookSAM: SAM at step 0, k, 2k, …; in between the flat-going part of the last of those is used again."""
    step = state["step"] = state.get("step", -1) + 1
    clean = grads(loss_fn, params)
    if step % k == 0:
        perturbed = at(loss_fn, params, climb(clean, rho, eps))
        squared = dot(clean, clean)
        state["flat"] = plus(perturbed, -dot(perturbed, clean) / squared if squared else 0.0, clean)
        return perturbed
    length = norm(state["flat"])
    return plus(clean, alpha * norm(clean) / length, state["flat"]) if length else clean


def weighted(loss_fn, params, rho, gamma=0.9, eps=EPS):
    """WSAM coupled: the gradient the base steps along."""
    clean, correction = weighted_decoupled(loss_fn, params, rho, gamma, eps)
    return plus(clean, 1, correction)


def weighted_decoupled(loss_fn, params, rho, gamma=0.9, eps=EPS):
    """WSAM as the paper has it: what the base steps along, and what to subtract lr times from w after its step."""
    clean = grads(loss_fn, params)
    perturbed = at(loss_fn, params, climb(clean, rho, eps))
    return clean, times(gamma / (1 - gamma), plus(perturbed, -1, clean))


def only_step_size(loss_fn, params, rho, eps=EPS):
    clean = grads(loss_fn, params)
    length = norm(clean)
    return times(norm(at(loss_fn, params, climb(clean, rho, eps))) / length, clean) if length else clean


def efficient(losses_fn, params, rho, masks, beta, gamma, eps=EPS):
    """ESAM; ``losses_fn()`` one loss per example, ``masks`` of zeros and ones for each parameter."""
    clean = grads(lambda: losses_fn().mean(), params)
    kept = [None if g is None else m * g for g, m in zip(clean, masks, strict=True)]
    e = times(rho / beta / (norm(clean) + eps), kept)
    before = losses_fn().detach()
    after = at(losses_fn, params, e, lambda f, _: f().detach())
    count = max(1, int(gamma * len(before)))
    sharpest = (after - before).argsort(descending=True, stable=True)[:count]
    return at(lambda: losses_fn()[sharpest].mean(), params, e)


# When to climb.


def every(loss_fn, params, state, rho, k, eps=EPS):
    step = state["step"] = state.get("step", -1) + 1
    return sam(loss_fn, params, rho, eps) if step % k == 0 else grads(loss_fn, params)


def between(loss_fn, params, state, rho, start=0, stop=math.inf, eps=EPS):
    """SAM for steps start, …, stop - 1, counted from 0."""
    step = state["step"] = state.get("step", -1) + 1
    return sam(loss_fn, params, rho, eps) if start <= step < stop else grads(loss_fn, params)
