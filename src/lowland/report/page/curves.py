"""The curves of all runs, and the bands of all groups, as data for the page's script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowland.report.page.groups import Group
from lowland.report.page.rounding import drawn, number
from lowland.report.page.shown import ShownRun
from lowland.report.page.thinning import evenly, kept
from lowland.training.statistics import estimate
from lowland.values import JsonObject

_NUMBERS = 150_000  # that all curves together may take: about 1.2 MB
_POINTS = (24, 1000)  # of a curve, at least and at most


@dataclass(frozen=True)
class Drawing:
    """What the page draws.

    Attributes:
        runs: of each group, in order, the curves of its runs.
        bands: of each group the mean over seeds by column; empty for a group of one run.
        points: that a curve has at most.
        longest: how many records a run has at most; where that is more than ``points``, its curves are thinned.
    """

    runs: list[list[JsonObject]]
    bands: list[JsonObject]
    points: int
    longest: int

    @property
    def rule(self) -> str:
        """How curves were thinned, in words; empty if none was."""
        if self.longest <= self.points:
            return ""
        return (
            f"Of up to {self.longest:,} records of a run each curve shows at most {self.points:,}: the first and the "
            "last, and from equally long stretches between them the lowest and the highest. Bands are at evenly spaced "
            "steps."
        )


def draw(groups: Sequence[Group], columns: Sequence[str]) -> Drawing:
    """The curves of ``groups``, thinned so that together they stay within a fixed size."""
    runs = [member.run for group in groups for member in group.members]
    several = sum(len(group.members) > 1 for group in groups)
    lines = (len(runs) + 3 * several) * max(1, len(columns))
    points = min(max(_NUMBERS // max(1, lines), _POINTS[0]), _POINTS[1])
    return Drawing(
        [[_curves(member.run, columns, points) for member in group.members] for group in groups],
        [_bands(group, columns, points) if len(group.members) > 1 else {} for group in groups],
        points,
        max((len(run.records) for run in runs), default=0),
    )


def _curves(run: ShownRun, columns: Sequence[str], points: int) -> JsonObject:
    """Steps and values by column; ``steps`` are those of every column that has none of its own."""
    steps = [record["step"] for record in run.records]
    found: JsonObject = {}
    for column in columns:
        values = [number(record.get(column)) for record in run.records]
        if any(value is not None for value in values):
            chosen = kept(values, points)
            curve: JsonObject = {"y": [drawn(values[index]) for index in chosen]}
            if len(chosen) < len(steps):
                curve["x"] = [steps[index] for index in chosen]
            found[column] = curve
    whole = any("x" not in curve for curve in found.values())
    return {"steps": steps if whole else [], "epochs_per_step": _epochs_per_step(run), "curves": found}


def _epochs_per_step(run: ShownRun) -> float | None:
    """By which the steps of a run become epochs; None where it records none."""
    last = run.records[-1] if run.records else {}
    epoch = number(last.get("epoch"))
    return epoch / last["step"] if epoch and last["step"] else None


def _bands(group: Group, columns: Sequence[str], points: int) -> JsonObject:
    """By column the mean over the seeds that have a value at a step, and its 95 % interval where two have."""
    found = {}
    for column in columns:
        by_step: dict[int, list[float]] = {}
        for member in group.members:
            for record in member.run.records:
                if (value := number(record.get(column))) is not None:
                    by_step.setdefault(record["step"], []).append(value)
        steps = sorted(by_step)
        chosen = [steps[index] for index in evenly(len(steps), points)]
        if chosen:
            found[column] = {"x": chosen, **_estimates([by_step[step] for step in chosen])}
    return found


def _estimates(several: Sequence[Sequence[float]]) -> Mapping[str, list[float | None]]:
    mean: list[float | None] = []
    low: list[float | None] = []
    high: list[float | None] = []
    for values in several:
        found = estimate(values)
        ends = found.band if found else None
        mean.append(drawn(found.mean) if found else None)
        low.append(drawn(ends[0]) if ends else None)
        high.append(drawn(ends[1]) if ends else None)
    return {"mean": mean, "low": low, "high": high}
