"""What a few seeds say about the mean over all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

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

    def entry(self, interval: bool = False) -> dict[str, Any]:
        """For a summary; with the ``interval``, if asked for."""
        entry: dict[str, Any] = {"mean": self.mean, "standard_error": self.standard_error}
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


def paired_difference(first: Mapping[Any, float], second: Mapping[Any, float]) -> Estimate | None:
    """The mean of ``first`` − ``second`` over the seeds that both have; None if they share none.

    Two runs of one seed have initial weights and batches in common, which their difference is free of.

    Args:
        first: seed → value.
        second: likewise.
    """
    return estimate([first[seed] - second[seed] for seed in first if seed in second])
