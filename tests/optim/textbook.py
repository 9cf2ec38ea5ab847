"""SAM written for reading: what every training setup is compared with, in float64 and one process."""

import math

import torch
from torch import nn


def gradient(loss_fn, params, rho, eps=1e-12):
    """The gradient of ``loss_fn()`` at w + ε, leaving ``params`` at w; ``rho`` one radius or one for each."""
    rhos = rho if isinstance(rho, list) else [rho] * len(params)
    ascent = torch.autograd.grad(loss_fn(), params, allow_unused=True)
    norm = math.sqrt(sum(g.pow(2).sum().item() for g in ascent if g is not None))
    weights = [p.detach().clone() for p in params]
    for p, g, r in zip(params, ascent, rhos, strict=True):
        if g is not None:
            p.data = p.data + r * g / (norm + eps)
    descent = torch.autograd.grad(loss_fn(), params, allow_unused=True)
    for p, w in zip(params, weights, strict=True):
        p.data = w
    return descent


def train(model, base, losses, rho, clip=None, after=None):
    """Step ``base`` along `gradient` for each of ``losses``: functions, or lists of functions to add up.

    ``rho`` may be a function of the step. Each member of a list climbs for itself.
    """
    params = [p for group in base.param_groups for p in group["params"] if p.requires_grad]
    for step, parts in enumerate(losses):
        radius = rho(step) if callable(rho) else rho
        for p in params:
            p.grad = None
        for loss_fn in parts if isinstance(parts, list) else [parts]:
            for p, g in zip(params, gradient(loss_fn, params, radius), strict=True):
                p.grad = g if p.grad is None else p.grad + g
        if clip is not None:
            nn.utils.clip_grad_norm_(params, clip)
        base.step()
        if after is not None:
            after()
    return model
