"""SAM against ρ = 0 at every point of a grid, paired by seed, corrected for looking at several; and the trend over ρ.

Beside the selected settings: where selection can't tell the points of a grid apart, these still can.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lowland.training.experiment import Experiment
from lowland.training.settings import SettingValue
from lowland.training.statistics import Estimate, estimate, holm, paired_difference, slope
from lowland.training.sweep.cells import Cell
from lowland.values import Json

SIGNIFICANT = 0.05  # of the corrected p, two-sided
RULE = (
    "At each point with rho > 0: the mean over seeds of the metric less that of the run with rho = 0, the same seed "
    "and the same settings otherwise (but for settings that the runs with rho = 0 don't vary). p is two-sided, of a "
    "paired t-test; p_holm is corrected for the number of points of this metric. A verdict goes by the 95 % interval "
    "of its point alone, as a claim's does: below or above if the whole interval is, else undecided; stands says "
    "whether p_holm is at most 0.05, too. The trend is the slope of the metric "
    "on log10 of rho > 0, fitted seed by seed, mean over seeds; over all, of each seed the mean over the others. The "
    "same stands beside it without the grid's largest rho, at which training may have collapsed."
)


@dataclass(frozen=True)
class Difference:
    """A cell with ρ > 0 less the one with ρ = 0.

    Attributes:
        settings: of the cell.
        difference: paired by seed, of the seeds that were trained to their end; None where all diverged.
        p: two-sided; None where the seeds have no scatter.
        corrected: by Holm, over all points.
        diverged: how many of the cell's runs did.
    """

    settings: Mapping[str, SettingValue]
    difference: Estimate | None
    p: float | None
    corrected: float | None
    diverged: int

    @property
    def verdict(self) -> str:
        """``"below"``, ``"above"`` or ``"undecided"``, by this point's 95 % interval; ``"diverged"`` where all did."""
        return "diverged" if self.difference is None else self.difference.side or "undecided"

    @property
    def stands(self) -> bool:
        """Whether the difference is there also when corrected for looking at several points."""
        return self.corrected is not None and self.corrected <= SIGNIFICANT

    def entry(self) -> dict[str, Json]:
        """As an entry of a summary."""
        between = None if self.difference is None else self.difference.entry(interval=True)
        found = {"difference": between, "p": self.p, "p_holm": self.corrected, "diverged": self.diverged}
        reason = "" if self.difference is None else self.difference.lacks
        told: dict[str, Json] = {"verdict": self.verdict, "stands": self.stands, "reason": reason}
        return {"settings": dict(self.settings), **found, **told}


@dataclass(frozen=True)
class Trend:
    """The slope of a metric on log10 ρ, over seeds.

    Attributes:
        settings: those other than ρ, None for all together.
        slope: over the grid's ρ > 0.
        largest: the largest of these, at which training may have collapsed.
        without: the slope without it; None where fewer than three are left.
    """

    settings: Mapping[str, SettingValue] | None
    slope: Estimate
    largest: float
    without: Estimate | None

    def entry(self) -> dict[str, Json]:
        """As an entry of a summary."""
        settings = None if self.settings is None else dict(self.settings)
        found: dict[str, Json] = {"per_decade": self.slope.entry(interval=True), "p": self.slope.p}
        without = None if self.without is None else self.without.entry(interval=True)
        return {"settings": settings, **found, "largest": self.largest, "without_largest": without}


def differences(cells: Sequence[Cell], metric: str) -> list[Difference]:
    """Of every cell with ρ > 0 that has seeds in common with its cell with ρ = 0, in the grid's order.

    And of those all of whose runs diverged.
    """
    without = [cell for cell in cells if cell.rho == 0]
    names = [name for name in (cells[0].settings if cells else {}) if name != "rho"]
    varied = [name for name in names if len({cell.settings[name] for cell in without}) > 1]
    base = {tuple(cell.settings[name] for name in varied): cell for cell in without}
    found = list[tuple[Cell, Estimate | None]]()
    for cell in cells:
        against = base.get(tuple(cell.settings[name] for name in varied)) if cell.rho > 0 else None
        if against is None or not against.values(metric):
            continue
        between = paired_difference(cell.values(metric), against.values(metric))
        if between is not None or cell.count("diverged") == len(cell.runs):
            found.append((cell, between))
    ps = [None if between is None else between.p for _, between in found]
    corrected = iter(holm([p for p in ps if p is not None]))
    return [
        Difference(cell.settings, between, p, None if p is None else next(corrected), cell.count("diverged"))
        for (cell, between), p in zip(found, ps, strict=True)
    ]


def trends(cells: Sequence[Cell], metric: str) -> list[Trend]:
    """For each combination of the settings other than ρ with three or more ρ > 0, then over all, if several.

    Of the seeds that have a value at every such ρ.
    """
    largest = max((cell.rho for cell in cells), default=0.0)
    rest = [cell for cell in cells if cell.rho < largest]
    by_settings, without = _slopes(cells, metric), _slopes(rest, metric)
    found = list[Trend]()
    for settings, slopes in by_settings:
        mean = estimate(list(slopes.values()))
        left = next((list(each.values()) for other, each in without if other == settings), [])
        if mean is not None:
            found.append(Trend(settings, mean, largest, estimate(left)))
    whole = trend_over_all(cells, metric)
    if len(by_settings) > 1 and whole is not None:
        found.append(Trend(None, whole, largest, trend_over_all(rest, metric)))
    return found


def trend_over_all(cells: Sequence[Cell], metric: str) -> Estimate | None:
    """The slope on log10 ρ, of each seed its mean over the combinations of the other settings with three or more ρ > 0.

    Of the seeds that have a value at every ρ of every combination; None where none has, or nothing has three ρ.
    """
    by_settings = [slopes for _, slopes in _slopes(cells, metric)]
    shared = [seed for seed in by_settings[0] if all(seed in each for each in by_settings)] if by_settings else []
    return estimate([fmean(slopes[seed] for slopes in by_settings) for seed in shared])


def _slopes(cells: Sequence[Cell], metric: str) -> list[tuple[Mapping[str, SettingValue], dict[int, float]]]:
    """Each combination of the settings other than ρ with three or more ρ > 0, and seed → slope."""
    groups = defaultdict[tuple[SettingValue, ...], dict[float, dict[int, float]]](dict)
    names = [name for name in (cells[0].settings if cells else {}) if name != "rho"]
    for cell in cells:
        if cell.rho > 0 and (values := cell.values(metric)):
            groups[tuple(cell.settings[name] for name in names)][cell.rho] = values
    found = list[tuple[Mapping[str, SettingValue], dict[int, float]]]()
    for key, by_rho in groups.items():
        if len(by_rho) >= 3:
            seeds = [seed for seed in next(iter(by_rho.values())) if all(seed in each for each in by_rho.values())]
            slopes = {seed: slope({math.log10(rho): each[seed] for rho, each in by_rho.items()}) for seed in seeds}
            found.append((dict(zip(names, key, strict=True)), slopes))
    return found


def columns(experiment: Experiment) -> list[str]:
    """The metrics that are compared: the experiment's outcomes, and what it selects by and reports on test data."""
    chosen = experiment.selection
    more = [chosen.metric, chosen.test] if chosen else []
    return [name for name in dict.fromkeys([*(curve.column for curve in experiment.outcomes), *more]) if name]


def summarize_differences(cells: Sequence[Cell], experiment: Experiment) -> dict[str, Json]:
    """For a summary: by metric the points and trends; metrics that no pair of runs has are left out."""
    found = {}
    for metric in columns(experiment):
        points = differences(cells, metric)
        if any(point.difference is not None for point in points):
            entries = [trend.entry() for trend in trends(cells, metric)]
            found[metric] = {"points": [point.entry() for point in points], "trends": entries}
    return {"rule": RULE, "metrics": found}
