"""Checks that more than one format needs."""

from collections.abc import Sequence

import numpy as np

from lowland.errors import DataError


def check_length(data: bytes, size: int, where: str) -> None:
    """Raise a `DataError` unless ``data``, the content of ``where``, has exactly ``size`` bytes."""
    if len(data) < size:
        raise DataError(f"{where} is cut off: {len(data)} bytes of {size}")
    if len(data) > size:
        raise DataError(f"{where} is too long: more than {size} bytes")


def check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """Raise a `DataError` if one of ``labels``, uint8 (n,), is not below ``classes``."""
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        first = wrong[0]
        raise DataError(f"{where} has label {labels[first]} at example {first}, outside 0 to {classes - 1}")


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first ``limit`` of ``names``, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:limit]) + more
