"""Figures as data, for `lowland.report` to draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lowland.training.outcome import Outcome
from lowland.training.statistics import Estimate


@dataclass(frozen=True)
class Curve:
    """One line of a figure: a column of the records, its label, and its style (a matplotlib line style)."""

    column: str
    label: str
    style: str = "-"


@dataclass(frozen=True)
class Figure:
    """A figure with a panel for each arm: curves over the steps.

    Attributes:
        name: of the file.
        title: what it shows.
        ylabel: with the unit, where there is one.
        curves: drawn in order.
        log: logarithmic vertical axis.
        over_grid: the two settings, those of the rows and of the columns, over which a sweep draws it too; none for a
            figure of runs alone.
    """

    name: str
    title: str
    ylabel: str
    curves: tuple[Curve, ...]
    log: bool = True
    over_grid: tuple[str, str] | None = None


@dataclass(frozen=True)
class Line:
    """A line, or points, of a panel.

    Attributes:
        x: where, None or NaN where there is nothing.
        y: what, likewise.
        label: for the legend; lines of one figure with the same label share colour and entry.
        style: a matplotlib format without colour: ``"-"``, ``"o"``, ``"o--"``.
        beside: a label whose lines this one is drawn thinly beside, in their colour: one seed beside the mean, say.
        low: the lower edge of a band around the line, one for each x, None where there is none; empty for no band.
        high: its upper edge.
    """

    x: Sequence[float | None]
    y: Sequence[float | None]
    label: str = ""
    style: str = "-"
    beside: str = ""
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def banded(found: Mapping[float, Estimate], label: str) -> Line:
    """A line through the means over seeds, points marked, with their 95 % intervals as a band; ``found``: by x."""
    edges = [each.interval or (None, None) for each in found.values()]
    low, high = ([edge[end] for edge in edges] for end in (0, 1))
    return Line(list(found), [each.mean for each in found.values()], label, "o-", low=low, high=high)


@dataclass(frozen=True)
class Level:
    """A horizontal line across a panel, dotted: what a paper reports, say.

    Attributes:
        value: its height.
        label: for the legend; levels of one figure with the same label share an entry.
        beside: a label whose colour it has; grey without.
    """

    value: float
    label: str
    beside: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes; labels with their units, where there are some. ``levels`` are drawn across."""

    title: str
    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    logx: bool = False
    logy: bool = False
    levels: Sequence[Level] = ()

    @property
    def labels(self) -> list[str]:
        """The legend's entries: labels of the lines that have one."""
        return [line.label for line in self.lines if line.label]


@dataclass(frozen=True)
class Bars:
    """One pair of axes with bars beside each other, and whiskers of one standard error.

    Attributes:
        title: above.
        xlabel: what the groups of bars are.
        ylabel: what their height is.
        names: of the groups.
        heights: label for the legend → height in each group, None where there is none.
        errors: label → standard error in each group, None likewise.
    """

    title: str
    xlabel: str
    ylabel: str
    names: Sequence[str]
    heights: Mapping[str, Sequence[float | None]]
    errors: Mapping[str, Sequence[float | None]]

    @property
    def labels(self) -> list[str]:
        """The legend's entries, in the order of ``heights``."""
        return list(self.heights)


@dataclass(frozen=True)
class Plot:
    """A figure of any panels: what `Figure` can't say.

    Attributes:
        name: of the file.
        title: what it shows.
        panels: made of the outcomes, by arm; none where there is nothing to draw. Row by row.
        columns: how many panels are beside each other, at most.
    """

    name: str
    title: str
    panels: Callable[[Mapping[str, Outcome]], Sequence[Panel | Bars]]
    columns: int = 3
