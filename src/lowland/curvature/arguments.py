"""Arguments that several instruments take, checked before anything is measured."""

from typing import Any

import torch
from torch import Tensor

from lowland.checks import is_count, number, plain

_LARGEST = 1e30


def step_size(lr: Any) -> float:
    """η as a number. Raises ValueError unless it is one above 0."""
    lr = plain("lr", lr)
    number("lr", lr, 0, _LARGEST)
    if lr == 0:
        raise ValueError("lr must be above 0: at 0 nothing moves, and there is no edge")
    return float(lr)


def check_eps(eps: Any) -> None:
    """Raise ValueError unless what is added to ‖g‖ is a finite number of at least 0."""
    number("eps", eps, 0, _LARGEST)


def check_tolerance(tol: Any) -> None:
    """Raise ValueError unless a relative residual is a number of at least 0."""
    number("tol", tol, 0, _LARGEST)


def whole_seed(seed: Any) -> int:
    """``seed`` as torch's generators take it. Raises ValueError unless it is an integer of 64 bits."""
    if not is_count(seed, -(2**63)) or seed >= 2**64:
        raise ValueError(f"seed must be an integer of 64 bits, not {seed!r}")
    return int(seed)


def check_start(start: Any, n: int) -> None:
    """Raise an error unless ``start`` is a vector ``(n,)`` or several, ``(j, n)``.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for another shape.
    """
    if not isinstance(start, Tensor):
        raise TypeError(f"start must be a tensor, not a {type(start).__name__}")
    if start.dim() not in (1, 2) or start.shape[-1] != n or not len(start):
        raise ValueError(
            f"start must be a vector of the {n} parameters, ({n},), or several, (j, {n}), not {tuple(start.shape)}: is "
            "it that of another model, or of other parameters?"
        )


def check_vectors(vectors: Any, n: int) -> None:
    """Raise an error unless H @ ``vectors`` makes sense: TypeError for no tensor of real numbers, else ValueError."""
    if not isinstance(vectors, torch.Tensor):
        raise TypeError(f"H @ v needs a tensor v, not a {type(vectors).__name__}")
    if vectors.is_complex():
        raise TypeError("H @ v needs a v of real numbers, not complex ones: multiply v.real and v.imag by themselves")
    if vectors.dim() not in (1, 2) or vectors.shape[0] != n or not vectors.numel():
        raise ValueError(f"H is {(n, n)}: H @ v needs v of shape (n,) or (n, k), not {tuple(vectors.shape)}")
