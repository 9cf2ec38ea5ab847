"""Where to climb: rules that say how far to go along the ascent gradient."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Climb(NamedTuple):
    """How far to go: the perturbation of a parameter is ρ · ``factor`` · (its ascent gradient).

    Python numbers where the gradients are on the CPU; elsewhere 0-d tensors on the device, so that nothing waits
    for it.
    """

    #: For rho 1; zero where there is nothing to climb along.
    factor: float | Tensor
    #: The ascent gradient had an entry that is not finite.
    overflow: bool | Tensor


def l2(norm: float | Tensor, eps: float, loss_scale: float | Tensor = 1.0) -> Climb:
    """Up to the sphere of radius ρ: ε = ρ g / (‖g‖ + eps) (Foret et al. 2021, equation 2).

    A norm that is zero or not finite gives a zero perturbation.

    Args:
        norm: of the gradient over all parameters, as it was computed: times ``loss_scale``.
        eps: added to the norm of the gradient proper.
        loss_scale: what the loss was multiplied with against underflow.
    """
    if not isinstance(norm, Tensor):
        overflow = not math.isfinite(norm)
        return Climb(0.0 if overflow or norm == 0 else 1 / (norm + eps * float(loss_scale)), overflow)
    overflows = ~torch.isfinite(norm)
    return Climb(torch.where(overflows | (norm == 0), 0, 1 / (norm + eps * loss_scale)), overflows)
