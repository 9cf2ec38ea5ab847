"""Checks of numeric arguments, with one wording for every refusal."""

import math
from numbers import Integral, Real
from typing import Any

from torch import Tensor


def is_count(value: Any, low: int) -> bool:
    """Whether ``value`` is an integer of at least ``low``. NumPy integers count, True and False don't."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


def count(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is an integer of at least 1."""
    if not is_count(value, 1):
        raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ValueError unless ``value`` is a number from ``low`` to ``high``."""
    real: Any = Real  # includes NumPy's numbers
    if isinstance(value, bool) or not isinstance(value, real) or not low <= value <= high:
        bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
        raise ValueError(f"{name} must be a number{', ' * bool(bounds)}{' and '.join(bounds)}, not {value!r}")


def check_rho(rho: Any) -> None:
    """Raise ValueError unless ``rho`` is a finite number ≥ 0. Tensors pass: reading one would wait for the GPU."""
    if (type(rho) is float and 0 <= rho < math.inf) or isinstance(rho, Tensor):
        return
    if isinstance(rho, bool) or not isinstance(rho, Real):
        raise ValueError(f"rho must be a number, not {rho!r}")
    if not (math.isfinite(rho) and float(rho) >= 0):
        raise ValueError(f"rho is the radius of the ascent step: it must be finite and at least 0, not {rho}")


def plain(name: str, value: Any) -> Any:
    """A tensor of one entry as a Python number, anything else unchanged.

    Raises:
        ValueError: for a tensor of several entries, or none.
    """
    if not isinstance(value, Tensor):
        return value
    if value.numel() != 1:
        raise ValueError(f"{name} must be a number, not a tensor of shape {tuple(value.shape)}")
    return value.item()


def radius(rho: Any) -> float:
    """ρ as a float, so that a saved file loads anywhere. Raises ValueError unless ρ is finite and at least 0."""
    rho = plain("rho", rho)
    if isinstance(rho, int) and abs(rho) > 1e300:
        raise ValueError(f"rho must be a number, not {rho!r}")
    check_rho(rho)
    return float(rho)
