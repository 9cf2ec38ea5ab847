"""Verdicts on differences between two kinds of arms, paired by seed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import ClassVar

from lowland.training import Outcome, Reference, Verdict, repeats
from lowland.training.claims import NoArmError
from lowland.training.statistics import Estimate, paired_difference

Measure = Callable[[Outcome], float]
Judge = Callable[[Mapping[str, Outcome]], Verdict]
#: The `Reference` of a claim that is ours alone, or of which the paper states nothing.
NOT_IN_PAPER = Reference("not in the paper", "ours")
#: Why a threshold is what it is, where there is no more to say.
OURS_BEFORE = "ours, chosen before the runs"
_ASCENDS = {"sam": True, "erm": False, "gd": False}


class Unfit(Exception):
    """Raised by a judge that can't decide; the reason goes into the verdict."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def judged(judge: Judge) -> Judge:
    """``judge``, whose Unfit becomes a verdict of null with the reason."""

    @wraps(judge)
    def fit(outcomes: Mapping[str, Outcome]) -> Verdict:
        try:
            return judge(outcomes)
        except Unfit as unfit:
            return Verdict(None, None, unfit.reason)

    return fit


def last(column: str) -> Measure:
    """The entry of the last record; raises Unfit if it was not finite."""

    def measure(outcome: Outcome) -> float:
        value = outcome.records[-1][column]
        if value is None:
            raise Unfit(f"{column} is not finite at the end of the run with seed {outcome.settings.seed}")
        return float(value)

    return measure


def by_seed(outcomes: Mapping[str, Outcome], kind: str, measure: Measure) -> dict[int, float]:
    """Seed → the measure of the arm of that kind; raises Unfit if one of them diverged, or is not of that kind."""
    found = [(label, outcomes[label]) for label in outcomes if repeats(label, kind)]
    for label, outcome in found:
        if kind in _ASCENDS and (outcome.settings.rho > 0) != _ASCENDS[kind]:
            raise Unfit(f"arm {label} has ρ = {outcome.settings.rho:g}")
        if outcome.diverged_at is not None or not outcome.records:
            raise Unfit(f"arm {label} diverged at step {outcome.diverged_at}")
    return {outcome.settings.seed: measure(outcome) for _, outcome in found}


def between(first: Mapping[int, float], second: Mapping[int, float], none: str) -> Estimate:
    """The mean of ``first`` − ``second`` over the seeds that both have; raises Unfit, saying ``none``, without any."""
    found = paired_difference(first, second)
    if found is None:
        raise Unfit(none)
    return found


def difference(outcomes: Mapping[str, Outcome], kind: str, other: str, measure: Measure) -> Estimate:
    """The mean over seeds of ``kind`` − ``other``; raises Unfit if there is none."""
    first, second = by_seed(outcomes, kind, measure), by_seed(outcomes, other, measure)
    return between(first, second, f"there are no runs of {kind} and {other} with the same seed")


@dataclass(frozen=True)
class smaller:
    """Judges whether ``kind`` has the smaller measure than ``other``: the mean difference, paired by seed.

    As `below_zero` says, for a `Claim` whose threshold is ``"interval < 0"``; NoArmError for an arm that isn't there.
    """

    kind: str
    other: str
    measure: Measure
    threshold: ClassVar[str] = "interval < 0"

    def __call__(self, outcomes: Mapping[str, Outcome]) -> Verdict:
        """The verdict on these outcomes."""
        _find(outcomes, self.kind, self.other)
        return judged(lambda arms: below_zero(difference(arms, self.kind, self.other, self.measure)))(outcomes)


def _find(outcomes: Mapping[str, Outcome], *kinds: str) -> None:
    """Raise NoArmError for the first of ``kinds`` that no arm is of."""
    for kind in kinds:
        if not any(repeats(label, kind) for label in outcomes):
            raise NoArmError(kind)


def reached(kind: str, measure: Measure, threshold: float, what: str) -> Callable[[Mapping[str, Outcome]], str]:
    """A `Claim`'s ``regime``: that the arms of ``kind`` end at or below ``threshold``, the worst seed included.

    ``what``: the measure in words, ``"ERM's training error"``. NoArmError where there is no such arm.
    """

    def regime(outcomes: Mapping[str, Outcome]) -> str:
        _find(outcomes, kind)
        try:
            values = by_seed(outcomes, kind, measure)
        except Unfit as unfit:
            return unfit.reason
        return trained_to(threshold, values.values(), what)

    return regime


def trained_to(threshold: float, ends: Iterable[float], what: str) -> str:
    """Why a claim about trained networks says nothing of runs that end with ``ends`` of the measure ``what``.

    Empty if the worst of them is at or below ``threshold``, or there are none.
    """
    worst = max(ends, default=threshold)
    if worst <= threshold:
        return ""
    return f"{what} is {worst:.2g}, and the claim is about networks that get to {threshold:g}"


def at_most(threshold: float, measure: Measure, neither: str) -> Judge:
    """Judges SAM's worst seed; null where ERM doesn't get there either: then the run is too short to tell.

    ``neither``: the reason then, before ERM's worst.
    """

    @judged
    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        worst = {kind: max(by_seed(outcomes, kind, measure).values()) for kind in ("sam", "erm")}
        if min(worst.values()) > threshold:
            return Verdict(worst["sam"], None, f"{neither} {worst['erm']:.2g}")
        return Verdict(worst["sam"], worst["sam"] <= threshold)

    return judge


def below_zero(found: Estimate, least: int = 2) -> Verdict:
    """Whether a mean difference is below 0: true if its whole 95 % t-interval lies below 0, false if whole above.

    Null between, whatever the sign of the mean: so few seeds can't tell. And null of fewer seeds than ``least``.
    """
    if 1 < found.n < least:
        return Verdict(
            found.mean, None, f"it takes {least} seeds, and these are {found.n}: {shown(found)}", found.interval
        )
    if found.interval is None:
        return Verdict(found.mean, None, found.lacks)
    if found.side is None:
        return Verdict(found.mean, None, f"{found.n} seeds can't tell: {shown(found)}", found.interval)
    return Verdict(found.mean, found.side == "below", f"over {found.n} seeds: {shown(found)}", found.interval)


def shown(found: Estimate) -> str:
    """The 95 % interval of an estimate in words."""
    if found.interval is None:
        return f"no interval: {found.lacks}"
    return f"95 % interval {found.interval[0]:.2g} to {found.interval[1]:.2g}"
