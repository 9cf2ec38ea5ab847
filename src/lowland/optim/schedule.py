"""Schedules of ρ: functions of the number of steps made so far, for ``SAM(base, rho=...)``.

A step at which ρ is 0 takes a single pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import SGD, Optimizer

from lowland.checks import check_rho, is_count, number
from lowland.edges import rho_for_sharpness

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


def geometric(first: float, last: float, steps: int) -> Schedule:
    """From ``first`` to ``last`` in equal ratios over ``steps`` steps, then ``last``: of ρ, or of a Hessian norm.

    Raises:
        ValueError: unless both are finite and above 0, and ``steps`` is an integer of at least 1.
    """
    _check("steps", steps, 1)
    for name, value in (("first", first), ("last", last)):
        number(name, value, 0, 1e30)
        if value == 0:
            raise ValueError(f"{name} must be above 0: no ratio leads from or to 0")
    return _Geometric(first, last, steps)


def at_sharpness(base: Optimizer, sharpness: float | Schedule, largest_rho: float = math.inf) -> Schedule:
    """The ρ of unnormalized SAM that holds the Hessian norm at ``sharpness``, as the learning rate is at each step.

    `lowland.curvature.rho_for_sharpness` says why, and what is assumed. It is for `lowland.optim.ascent.Unnormalized`,
    as in `lowland.optim.presets.Dial`. ρ is 0 while the learning rate is: nothing moves then.

    Args:
        base: whose learning rate, momentum and Nesterov's are followed; all its groups have the same.
        sharpness: the Hessian norm wanted, or a schedule of it: a function of the number of steps made so far.
        largest_rho: ρ grows as 1/lr, so a warm-up from zero begins with very long perturbations.

    Raises:
        TypeError: unless ``base`` is `torch.optim.SGD`, whose edge it is.
        ValueError: for ``largest_rho`` below 0; with dampening; at each step, for groups that differ, and for a Hessian
            norm that is not above 0, or above the edge of ``base`` itself.
    """
    if not isinstance(base, SGD):
        raise TypeError(f"base must be torch.optim.SGD, whose edge is known, not {type(base).__name__}")
    number("largest_rho", largest_rho, 0)
    rule = _AtSharpness(base, sharpness, largest_rho)
    rule(0)
    return rule


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


@dataclass(frozen=True)
class _Geometric:
    first: float
    last: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.last if step >= self.steps else self.first * (self.last / self.first) ** (step / self.steps)


@dataclass(frozen=True)
class _AtSharpness:
    base: Optimizer
    sharpness: float | Schedule
    most: float

    def __call__(self, step: int) -> float:
        groups = [(float(g["lr"]), float(g["momentum"]), bool(g["nesterov"])) for g in self.base.param_groups]
        if len(set(groups)) > 1:
            raise ValueError("the Hessian norm is held for one learning rate and momentum: the base's groups differ")
        if any(group["dampening"] for group in self.base.param_groups):
            raise ValueError("the Hessian norm is held for momentum without dampening: leave dampening out")
        (lr, momentum, nesterov), *_ = groups
        sharpness = self.sharpness(step) if callable(self.sharpness) else self.sharpness
        return 0.0 if lr == 0 else min(self.most, rho_for_sharpness(sharpness, lr, momentum, nesterov))


def _check(name: str, value: object, low: int) -> None:
    if not is_count(value, low):
        raise ValueError(f"{name} counts steps: an integer of at least {low}, not {value!r}")
