"""The edge of stability of SAM."""

import math
from typing import Any

import torch
from torch import Tensor

from lowland.checks import number


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


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """|cos| of the angle between two vectors of one shape, a 0-d tensor in [0, 1]; 0 if either is zero.

    NaN if either has an entry that isn't finite.

    Raises:
        TypeError: for what is no tensor of floating-point numbers.
        ValueError: for vectors of different sizes.
    """
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.is_floating_point() and b.is_floating_point()):
        raise TypeError("alignment is that of two tensors of floating-point numbers")
    if a.numel() != b.numel():
        raise ValueError(f"alignment is that of two vectors of one size, not of {a.numel()} and {b.numel()} entries")
    tiny = torch.finfo(a.dtype).tiny
    a, b = (v.reshape(-1) / v.abs().max().clamp(min=tiny) for v in (a, b))  # so that no square over- or underflows
    norms = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
    return torch.where(norms != 0, (torch.dot(a, b) / norms).abs().clamp(max=1), torch.zeros_like(norms))
