"""Numbers for the page: read from records with care, written with as many digits as a drawing shows."""

import math

from lowland.values import Read

DIGITS = 5  # of what is drawn
_ROUNDING = 1e-12  # of two numbers: where they differ by less, they differ by how they were summed


def number(value: Read) -> float | None:
    """``value`` as a finite number; None if it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def drawn(value: float | None) -> float | None:
    """``value`` with `DIGITS` digits, which take less room in a file."""
    if value is None:
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def settled(difference: float, scale: float) -> float:
    """0 where a ``difference`` of numbers as large as ``scale`` is nothing but their rounding."""
    return 0.0 if abs(difference) <= _ROUNDING * abs(scale) else difference


def short(value: Read) -> str:
    """A setting or a result as people write it, numbers with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
