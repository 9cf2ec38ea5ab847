"""Probes of many small networks at once: what `lowland.features.probe` computes for one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

_TOLERANCE = 1e-8  # of the decrement, what a Newton step can still gain
_STEPS, _HALVINGS = 50, 30


def probing_errors(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    Cs: Sequence[float],
) -> Tensor:
    """The test error ``(r,)`` of logistic regression on the features of each of r networks.

    Each set is a pair of features ``(r, n, h)`` and labels ±1 ``(r, n)``. They are standardized by the training
    examples, C is chosen by the validation error (ties: the log loss, then the most regularized): as
    `lowland.features.probe` does, in float64 and by Newton's method.
    """
    mean, deviation = train[0].double().mean(1, keepdim=True), train[0].double().std(1, correction=0, keepdim=True)
    sets = []
    for features, labels in (train, validation, test):
        x = (features.double() - mean) / torch.where(deviation > 0, deviation, 1)
        sets.append((torch.cat([x, torch.ones_like(x[..., :1])], 2), labels.double()))
    (x, y), chosen_by, tested = sets
    w = torch.zeros_like(x[:, 0])
    best = torch.full((2, len(x)), torch.inf, dtype=x.dtype, device=x.device)  # validation error and loss
    errors = torch.ones_like(best[0])
    for C in sorted(Cs):
        w = logistic_regression(x, y, C, w)
        margins = _margins(w, *chosen_by)
        found = torch.stack([wrong(margins), softplus(-margins).mean(1)])
        better = (found[0] < best[0]) | ((found[0] == best[0]) & (found[1] < best[1]))
        best = torch.where(better, found, best)
        errors = torch.where(better, wrong(_margins(w, *tested)), errors)
    return errors


def logistic_regression(x: Tensor, y: Tensor, C: float, w: Tensor) -> Tensor:
    """The minimum w of C Σ log(1 + exp(−y xᵀw)) + ½‖w‖², from ``w`` on; the last weight isn't in the norm.

    Newton's method, whose steps are halved until the loss falls; x (r, n, p), y (r, n), w (r, p).
    """
    penalized = torch.ones_like(w[0])
    penalized[-1] = 1e-9  # so that there is a minimum

    def loss(w: Tensor) -> Tensor:
        return C * softplus(-_margins(w, x, y)).sum(1) + (penalized * w.square()).sum(1) / 2

    before = loss(w)
    for _ in range(_STEPS):
        pull = torch.sigmoid(-_margins(w, x, y))
        gradient = penalized * w - C * torch.bmm((y * pull)[:, None], x)[:, 0]
        hessian = C * torch.bmm((x * (pull * (1 - pull))[..., None]).mT, x) + torch.diag(penalized)
        step = torch.linalg.solve(hessian, gradient)
        decrement = (gradient * step).sum(1)
        if decrement.max() < _TOLERANCE:
            break
        size = torch.ones_like(before)
        for _ in range(_HALVINGS):
            after = loss(w - size[:, None] * step)
            rises = after > before
            if not rises.any():
                break
            size = torch.where(rises, size / 2, size)
        w, before = w - size[:, None] * step, after
    return w


def wrong(margins: Tensor) -> Tensor:
    """The share ``(r,)`` of examples on the wrong side."""
    return (margins <= 0).double().mean(1)


def _margins(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return y * torch.bmm(x, w[..., None])[..., 0]
