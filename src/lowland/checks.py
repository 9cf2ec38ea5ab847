"""Settings that are numbers."""

import math
from numbers import Integral, Real
from typing import Any


def is_count(value: Any, low: int) -> bool:
    """Whether ``value`` is an integer of at least ``low``, NumPy's included; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


def count(name: str, value: Any, low: int = 1) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``low``."""
    if not is_count(value, low):
        raise ValueError(f"{name} must be an integer of at least {low}, not {value!r}")


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ValueError unless ``value`` is a number from ``low`` to ``high``."""
    real: Any = Real  # NumPy's numbers are some
    if isinstance(value, bool) or not isinstance(value, real) or not low <= value <= high:
        bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
        raise ValueError(f"{name} must be a number{', ' * bool(bounds)}{' and '.join(bounds)}, not {value!r}")
