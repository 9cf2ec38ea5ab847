"""What a few seeds say about the mean over all of them."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Literal

from lowland.values import Json

LEVEL = 0.95
ONE_SEED = "one seed says nothing of the scatter between seeds: take several"
_ROUNDING = 4 * sys.float_info.epsilon  # of the largest value: a spread no larger is no scatter


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        standard_error: of the mean: the values' standard deviation (with n − 1) over √n; None for a single value, and 0
            for values that are equal up to rounding.
        n: how many values.
    """

    mean: float
    standard_error: float | None
    n: int

    @property
    def lacks(self) -> str:
        """Why there is no interval and no p, in words; empty if there are."""
        if self.standard_error is None:
            return ONE_SEED
        return (
            "" if self.standard_error else f"{self.n} seeds that give the same say nothing of the scatter between seeds"
        )

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % confidence interval of the mean; None where the values have no scatter (`lacks`)."""
        if not self.standard_error:
            return None
        from scipy.special import stdtrit  # Student's quantile, as scipy.stats takes it, without loading all of that

        half = float(stdtrit(self.n - 1, (1 + LEVEL) / 2)) * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def band(self) -> tuple[float, float] | None:
        """What is shaded around the mean: the interval, of no width where all values are equal; None of one value."""
        return self.interval or (None if self.standard_error is None else (self.mean, self.mean))

    @property
    def side(self) -> Literal["below", "above"] | None:
        """On which side of 0 the whole 95 % interval lies; None if 0 is in it, or there is no interval.

        Every verdict on a difference goes by this, of a claim as of a table.
        """
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return None
        return "below" if self.mean < 0 else "above"

    @property
    def p(self) -> float | None:
        """Two-sided, of Student's t-test that the mean is 0; None where the values have no scatter (`lacks`)."""
        if not self.standard_error:
            return None
        from scipy.special import stdtr

        return 2 * float(stdtr(self.n - 1, -abs(self.mean) / self.standard_error))

    def entry(self, interval: bool = False) -> dict[str, Json]:
        """For a summary; with the ``interval``, if asked for."""
        entry: dict[str, Json] = {"mean": self.mean, "standard_error": self.standard_error}
        if interval:
            entry["interval_95"] = None if self.interval is None else list(self.interval)
        return {**entry, "n": self.n}


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard error of ``values``, summed exactly, so that their order doesn't matter; None of no values."""
    floats = [float(value) for value in values]
    if not floats:
        return None
    error = stdev(floats) / math.sqrt(len(floats)) if len(floats) > 1 else None
    return _without_rounding(Estimate(mean(floats), error, len(floats)), floats, floats)


def to_compare(mean: float) -> float:
    """A ``mean`` without its last digits, which are rounding: equal ones are then equal, and ties are seen."""
    return float(f"{mean:.12g}")


def _without_rounding(found: Estimate, values: Sequence[float], made_of: Sequence[float]) -> Estimate:
    """``found`` of ``values``, with an error of 0 where these differ by no more than the rounding of what made them."""
    same = found.n > 1 and max(values) - min(values) <= _ROUNDING * max(map(abs, made_of))
    return replace(found, standard_error=0.0) if same else found


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """The mean of ``first`` − ``second`` over the seeds that both have; None if they share none.

    Two runs of one seed have initial weights and batches in common, which their difference is free of. Differences that
    are equal up to the rounding of the values have a standard error of 0.

    Args:
        first: seed → value.
        second: likewise.
    """
    shared = [seed for seed in first if seed in second]
    differences = [float(first[seed] - second[seed]) for seed in shared]
    found = estimate(differences)
    made_of = [value for seed in shared for value in (first[seed], second[seed])]
    return None if found is None else _without_rounding(found, differences, made_of)


def holm(ps: Sequence[float]) -> list[float]:
    """``ps`` corrected for looking at all of them, in their order (Holm 1979, *A simple sequentially rejective multiple
    test procedure*, Scandinavian Journal of Statistics): the k-th smallest of n times n − k + 1, at most 1, and none
    below one that was smaller before.
    """
    corrected, most = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        most = max(most, min(1.0, ps[index] * (len(ps) - rank)))
        corrected[index] = most
    return corrected


def slope(points: Mapping[float, float]) -> float:
    """Of the least-squares line through x → y; it takes two x."""
    x, y = mean(points), mean(points.values())
    return sum((a - x) * (b - y) for a, b in points.items()) / sum((a - x) ** 2 for a in points)
