"""Schedules of ρ: functions of the number of steps made so far, for ``SAM(base, rho=...)``.

A step at which ρ is 0 takes a single pass.
"""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

Schedule = Callable[[int], float]


def every(k: int, rho: float) -> Schedule:
    """SAM every k-th step, the first one included; the base optimizer's own steps between.

    Raises:
        ValueError: unless k is an integer of at least 1.
    """
    _check("k", k, 1)
    return lambda step: rho if step % k == 0 else 0.0


def since(start: int, rho: float) -> Schedule:
    """SAM from step ``start`` on; the base optimizer before.

    Raises:
        ValueError: unless ``start`` is an integer of at least 0.
    """
    _check("start", start, 0)
    return lambda step: rho if step >= start else 0.0


def until(end: int, rho: float) -> Schedule:
    """SAM before step ``end``; the base optimizer from then on.

    Raises:
        ValueError: unless ``end`` is an integer of at least 0.
    """
    _check("end", end, 0)
    return lambda step: rho if step < end else 0.0


def along_lr(base: Optimizer, rho: float, lowest_rho: float, lr: float, lowest_lr: float) -> Schedule:
    """ρ that falls linearly with the learning rate (Zhuang et al. 2022, *GSAM*): ``rho`` at ``lr``, and so on.

    Args:
        base: whose first group's learning rate is followed.
        rho: ρ where the learning rate is ``lr``.
        lowest_rho: ρ where it is ``lowest_lr``.
        lr: the largest learning rate.
        lowest_lr: the smallest.

    Raises:
        ValueError: if the two learning rates are the same.
    """
    if not lr > lowest_lr:
        raise ValueError(f"rho follows the learning rate from {lr} down to {lowest_lr}: the first must be larger")

    def schedule(step: int) -> float:
        share = (float(base.param_groups[0]["lr"]) - lowest_lr) / (lr - lowest_lr)
        return max(0.0, lowest_rho + (rho - lowest_rho) * share)

    return schedule


def _check(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} counts steps: an integer of at least {low}, not {value!r}")
