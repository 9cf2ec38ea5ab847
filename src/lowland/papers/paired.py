"""Verdicts on differences between two kinds of arms, paired by seed."""

from collections.abc import Callable, Mapping
from functools import wraps

from lowland.training import Arm, Verdict, repeats
from lowland.training.statistics import Estimate, paired_difference

Measure = Callable[[Arm], float]
Judge = Callable[[Mapping[str, Arm]], Verdict]
ONE_SEED = "one seed says nothing of the scatter between seeds: take several"
_ASCENDS = {"sam": True, "erm": False, "gd": False}


class Unfit(Exception):
    """Why nothing can be said."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def judged(judge: Judge) -> Judge:
    """``judge``, whose Unfit becomes a verdict of null with the reason."""

    @wraps(judge)
    def fit(arms: Mapping[str, Arm]) -> Verdict:
        try:
            return judge(arms)
        except Unfit as unfit:
            return Verdict(None, None, unfit.reason)

    return fit


def last(column: str) -> Measure:
    """The entry of the last record; raises Unfit if it was not finite."""

    def measure(arm: Arm) -> float:
        value = arm.records[-1][column]
        if value is None:
            raise Unfit(f"{column} is not finite at the end of the run with seed {arm.settings.seed}")
        return float(value)

    return measure


def by_seed(arms: Mapping[str, Arm], kind: str, measure: Measure) -> dict[int, float]:
    """Seed → the measure of the arm of that kind; raises Unfit if one of them diverged, or is not of that kind."""
    found = [(label, arms[label]) for label in arms if repeats(label, kind)]
    for label, arm in found:
        if kind in _ASCENDS and (arm.settings.rho > 0) != _ASCENDS[kind]:
            raise Unfit(f"arm {label} has ρ = {arm.settings.rho:g}")
        if arm.diverged_at is not None or not arm.records:
            raise Unfit(f"arm {label} diverged at step {arm.diverged_at}")
    return {arm.settings.seed: measure(arm) for _, arm in found}


def between(first: Mapping[int, float], second: Mapping[int, float], none: str) -> Estimate:
    """The mean of ``first`` − ``second`` over the seeds that both have; raises Unfit, saying ``none``, without any."""
    found = paired_difference(first, second)
    if found is None:
        raise Unfit(none)
    return found


def difference(arms: Mapping[str, Arm], kind: str, other: str, measure: Measure) -> Estimate:
    """The mean over seeds of ``kind`` − ``other``; raises Unfit if there is none."""
    first, second = by_seed(arms, kind, measure), by_seed(arms, other, measure)
    return between(first, second, f"there are no runs of {kind} and {other} with the same seed")


def smaller(kind: str, other: str, measure: Measure) -> Judge:
    """Judges whether ``kind`` has the smaller measure than ``other``: the mean difference, paired by seed.

    As `below_zero` says.
    """
    return judged(lambda arms: below_zero(difference(arms, kind, other, measure)))


def reached(kind: str, measure: Measure, threshold: float, what: str) -> Callable[[Mapping[str, Arm]], str]:
    """A `Claim`'s ``regime``: that the arms of ``kind`` end at or below ``threshold``, the worst seed included.

    ``what``: the measure in words, ``"ERM's training error"``.
    """

    def regime(arms: Mapping[str, Arm]) -> str:
        try:
            values = by_seed(arms, kind, measure)
        except Unfit as unfit:
            return unfit.reason
        if not values:
            return f"there is no arm {kind}"
        worst = max(values.values())
        if worst <= threshold:
            return ""
        return f"{what} is {worst:.2g}, and the claim is about networks that get to {threshold:g}"

    return regime


def at_most(threshold: float, measure: Measure, neither: str) -> Judge:
    """Judges SAM's worst seed; null where ERM doesn't get there either: then the run is too short to tell.

    ``neither``: the reason then, before ERM's worst.
    """

    @judged
    def judge(arms: Mapping[str, Arm]) -> Verdict:
        worst = {kind: max(by_seed(arms, kind, measure).values()) for kind in ("sam", "erm")}
        if min(worst.values()) > threshold:
            return Verdict(worst["sam"], None, f"{neither} {worst['erm']:.2g}")
        return Verdict(worst["sam"], worst["sam"] <= threshold)

    return judge


def below_zero(found: Estimate, least: int = 2) -> Verdict:
    """Whether a mean difference is below 0: true if its whole 95 % t-interval lies below 0, false if whole above.

    Null between, whatever the sign of the mean: so few seeds can't tell. And null of fewer seeds than ``least``.
    """
    if found.interval is None:
        return Verdict(found.mean, None, ONE_SEED)
    if found.n < least:
        return Verdict(found.mean, None, f"it takes {least} seeds, and these are {found.n}: {shown(found)}")
    low, high = found.interval
    if low <= 0 <= high:
        return Verdict(found.mean, None, f"{found.n} seeds can't tell: {shown(found)}")
    return Verdict(found.mean, high < 0, f"over {found.n} seeds: {shown(found)}")


def shown(found: Estimate) -> str:
    """The 95 % interval in words."""
    if found.interval is None:
        return "no interval, of one seed"
    return f"95 % interval {found.interval[0]:.2g} to {found.interval[1]:.2g}"
