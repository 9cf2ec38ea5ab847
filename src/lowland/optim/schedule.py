"""Schedules of ρ: functions of the number of steps made so far, for ``SAM(base, rho=...)``.

A step at which ρ is 0 takes a single pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from lowland.checks import check_rho, is_count, number

Schedule = Callable[[int], float]


def every(k: int, rho: float) -> Schedule:
    """SAM every k-th step, the first one included; the base optimizer's own steps between.

    Raises:
        ValueError: unless k is an integer of at least 1, and rho a finite number of at least 0.
    """
    _check("k", k, 1)
    check_rho(rho)
    return _Every(k, rho)


def since(start: int, rho: float) -> Schedule:
    """SAM from step ``start`` on; the base optimizer before.

    Raises:
        ValueError: unless ``start`` is an integer of at least 0, and rho a finite number of at least 0.
    """
    _check("start", start, 0)
    check_rho(rho)
    return _Between(start, math.inf, rho)


def until(end: int, rho: float) -> Schedule:
    """SAM before step ``end``; the base optimizer from then on.

    Raises:
        ValueError: unless ``end`` is an integer of at least 0, and rho a finite number of at least 0.
    """
    _check("end", end, 0)
    check_rho(rho)
    return _Between(0, end, rho)


def along_lr(base: Optimizer, rho: float, lowest_rho: float, lr: float, lowest_lr: float) -> Schedule:
    """ρ that falls linearly with the learning rate (Zhuang et al. 2022, *GSAM*): ``rho`` at ``lr``, and so on.

    Args:
        base: whose first parameter group's learning rate is followed.
        rho: ρ where the learning rate is ``lr``.
        lowest_rho: ρ where it is ``lowest_lr``.
        lr: the largest learning rate.
        lowest_lr: the smallest.

    Raises:
        TypeError: if ``base`` is no optimizer.
        ValueError: unless ``lr`` is larger than ``lowest_lr``, and both radii are finite and at least 0.
    """
    check_rho(rho)
    check_rho(lowest_rho)
    if not hasattr(base, "param_groups"):
        raise TypeError(f"base must be an optimizer, whose learning rate is followed, not a {type(base).__name__}")
    number("lr", lr)
    number("lowest_lr", lowest_lr)
    if not lr > lowest_lr:
        raise ValueError(f"rho follows the learning rate from {lr} down to {lowest_lr}: the first must be larger")
    return _AlongLr(base, rho, lowest_rho, lr, lowest_lr)


# Objects rather than functions: they can be pickled, and a copy of the optimizer takes a copy along.


@dataclass(frozen=True)
class _Every:
    k: int
    rho: float

    def __call__(self, step: int) -> float:
        return self.rho if step % self.k == 0 else 0.0


@dataclass(frozen=True)
class _Between:
    start: int
    end: float
    rho: float

    def __call__(self, step: int) -> float:
        return self.rho if self.start <= step < self.end else 0.0


@dataclass(frozen=True)
class _AlongLr:
    base: Optimizer
    rho: float
    lowest_rho: float
    lr: float
    lowest_lr: float

    def __call__(self, step: int) -> float:
        share = (float(self.base.param_groups[0]["lr"]) - self.lowest_lr) / (self.lr - self.lowest_lr)
        return max(0.0, self.lowest_rho + (self.rho - self.lowest_rho) * share)


def _check(name: str, value: object, low: int) -> None:
    if not is_count(value, low):
        raise ValueError(f"{name} counts steps: an integer of at least {low}, not {value!r}")
