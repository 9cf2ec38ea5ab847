"""Edges of stability: the Hessian norm above which a step oscillates along the principal direction, as formulas."""

import math
from typing import Any

import torch
from torch import Tensor

from lowland.checks import number

_LARGEST = 1e30
_ROUNDING = 1e-9  # that a Hessian norm computed from lr may lie above the edge


def sam_edge(gradient_norm: Any, lr: Any, rho: Any) -> Any:
    """The Hessian norm above which SAM with step size ``lr`` oscillates along the principal direction.

    Long & Bartlett 2024, *Sharpness-Aware Minimization and the Edge of Stability*: with ‖g‖ the gradient norm,

        ‖g‖/(2ρ) · (√(1 + 8ρ/(η‖g‖)) − 1),

    computed here as (4/η) / (√(1 + 8ρ/(η‖g‖)) + 1), which is the same, loses no digits for small ρ, and is
    gradient descent's edge 2/η at ρ = 0.

    Args:
        gradient_norm: ‖g‖ ≥ 0, in units of loss per unit of the parameters.
        lr: step size η > 0.
        rho: radius ρ ≥ 0, in units of the parameters.
            Each a number or a tensor; tensors broadcast.

    Returns:
        The edge, a float, or a tensor where an argument is one. 0 at a zero gradient with ρ > 0.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> round(sam_edge(0.5, lr=0.1, rho=0.1), 4), sam_edge(0.5, lr=0.1, rho=0)
        (7.8078, 20.0)
    """
    if any(isinstance(value, Tensor) for value in (gradient_norm, lr, rho)):
        ratio = torch.as_tensor(8 * rho / (lr * gradient_norm))
        ratio = torch.where(torch.as_tensor(rho == 0, device=ratio.device), torch.zeros_like(ratio), ratio)
        return (4 / lr) / (ratio.add(1).sqrt() + 1)
    for name, value in (("gradient_norm", gradient_norm), ("lr", lr), ("rho", rho)):
        number(name, value)
    if not (lr > 0 and rho >= 0 and gradient_norm >= 0):
        raise ValueError(f"the edge needs lr > 0, rho >= 0, gradient norm >= 0: got {lr}, {rho}, {gradient_norm}")
    if rho == 0:
        return 2 / lr
    if lr * gradient_norm == 0:
        return 0.0
    return (4 / lr) / (math.sqrt(1 + 8 * rho / (lr * gradient_norm)) + 1)


def descent_edge(lr: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The eigenvalue λ of a quadratic loss above which `torch.optim.SGD` oscillates with growing amplitude.

    Along an eigenvector, gradient descent multiplies w by 1 − ηλ, whose magnitude exceeds 1 above λ = 2/η. With
    momentum β (v ← βv + λw, w ← w − ηv) the two last points obey z² − (1 + β − ηλ)z + β = 0, of which a root passes −1
    at ηλ = 2(1 + β). With Nesterov's (w ← w − η(λw + βv)) it is z² − (1 + β)(1 − ηλ)z + β(1 − ηλ) = 0, and
    ηλ = 2(1 + β)/(1 + 2β).

    Args:
        lr: step size η > 0.
        momentum: β, from 0 to below 1.
        nesterov: whether momentum is Nesterov's, as torch has it.

    Raises:
        ValueError: for numbers out of range.
    """
    number("lr", lr, 0, _LARGEST)
    number("momentum", momentum, 0, 1)
    if lr == 0 or momentum == 1:
        raise ValueError(f"the edge needs lr above 0 and momentum below 1: got {lr} and {momentum}")
    edge = 2 * (1 + momentum) / lr
    return edge / (1 + 2 * momentum) if nesterov else edge


def rho_for_sharpness(sharpness: float, lr: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """ρ at which the edge of unnormalized SAM (ε = ρ g) is the Hessian norm ``sharpness``: it does not depend on ‖g‖.

    Assumed: the loss is quadratic along the principal eigenvector, of eigenvalue h, and every batch is the whole
    training set. There the gradient at w + ρ g is h(1 + ρh) w, so that the base optimizer sees the eigenvalue
    h(1 + ρh), and is on its edge E (`descent_edge`; 2/η for gradient descent) where

        h (1 + ρ h) = E,    ρ = (E − h)/h².

    Training that by itself would get to a larger Hessian norm rises to h and stays there. Agarwala & Dauphin 2023, *SAM
    Operates Far From Home: Eigenvalue Regularization as a Dynamical Phenomenon* (ICML), find this edge for gradient
    descent in a quadratic regression model; solving it for ρ, and momentum, are ours.

    Args:
        sharpness: the Hessian norm h wanted, above 0 and at most E, at which ρ is 0.
        lr: step size η > 0.
        momentum: of `torch.optim.SGD`, from 0 to below 1; ``dampening`` 0.
        nesterov: whether it is Nesterov's.

    Returns:
        ρ ≥ 0, in units of the parameters squared by units of the loss: `lowland.optim.presets.USAM` takes it.

    Raises:
        ValueError: for numbers out of range, a sharpness above E among them.

    Example:
        >>> round(rho_for_sharpness(0.5, lr=0.3), 3), rho_for_sharpness(20, lr=0.1)
        (24.667, 0.0)
    """
    number("sharpness", sharpness, high=_LARGEST)
    if 0 < sharpness < 1 / _LARGEST:
        raise ValueError(f"sharpness must be at least {1 / _LARGEST:g}, not {sharpness!r}")
    edge = descent_edge(lr, momentum, nesterov)
    if not 0 < sharpness <= edge * (1 + _ROUNDING):
        raise ValueError(
            f"a Hessian norm of {sharpness:g} can't be held at lr = {lr:g}: it must be above 0 and at most {edge:g}, "
            "the edge of the optimizer without SAM. For a larger one take a smaller lr."
        )
    return max(0.0, (edge - sharpness) / sharpness / sharpness)


def sharpness_for_rho(rho: float, lr: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The Hessian norm h at the edge of unnormalized SAM: h (1 + ρ h) = E, the inverse of `rho_for_sharpness`.

    Args:
        rho: ρ ≥ 0, in units of the parameters squared by units of the loss.
        lr: step size η > 0.
        momentum: of `torch.optim.SGD`, from 0 to below 1.
        nesterov: whether it is Nesterov's.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> round(sharpness_for_rho(24.667, lr=0.3), 3), sharpness_for_rho(0, lr=0.1)
        (0.5, 20.0)
    """
    number("rho", rho, 0, _LARGEST)
    edge = descent_edge(lr, momentum, nesterov)
    return 2 * edge / (1 + math.sqrt(1 + 4 * rho * edge))  # the root above 0, without a difference of close numbers
