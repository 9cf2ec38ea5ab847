"""What a few seeds say about the mean over all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from lowland.values import Json

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        standard_error: of the mean: the values' standard deviation (with n − 1) over √n; None for a single value.
        n: how many values.
    """

    mean: float
    standard_error: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % confidence interval of the mean; None for a single value."""
        if self.standard_error is None:
            return None
        from scipy.special import stdtrit  # Student's quantile, as scipy.stats takes it, without loading all of that

        half = float(stdtrit(self.n - 1, (1 + LEVEL) / 2)) * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float | None:
        """Two-sided, of Student's t-test that the mean is 0; None for a single value.

        Of values that are all the same 0, or 1 if they are 0.
        """
        if self.standard_error is None:
            return None
        if self.standard_error == 0:
            return float(self.mean == 0)
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
    return Estimate(mean(floats), error, len(floats))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """The mean of ``first`` − ``second`` over the seeds that both have; None if they share none.

    Two runs of one seed have initial weights and batches in common, which their difference is free of.

    Args:
        first: seed → value.
        second: likewise.
    """
    return estimate([first[seed] - second[seed] for seed in first if seed in second])


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
