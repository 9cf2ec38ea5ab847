"""Figures as data, for `lowland.report` to draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lowland.training.outcome import Outcome
from lowland.training.statistics import Estimate, estimate
from lowland.values import Read


@dataclass(frozen=True)
class Level:
    """A horizontal line across a panel: what a paper reports, or what chance gives.

    Attributes:
        value: its height.
        label: for the legend; levels of one figure with the same label share an entry.
        beside: a label or tint whose colour it has; grey without.
        style: a matplotlib line style.
        within: whether the axis reaches to it, however far from the curves it lies. Others that lie far outside are
            named at the axis's edge, with their value.
    """

    value: float
    label: str
    beside: str = ""
    style: str = ":"
    within: bool = False


def chance(classes: int) -> Level:
    """The error of guessing among so many classes, as a level."""
    return Level(1 - 1 / classes, "chance", style="-.")


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Attributes:
        column: of the records.
        label: in the legend, or of an axis.
        style: a matplotlib line style.
        level: drawn across the figures of a sweep.
    """

    column: str
    label: str
    style: str = "-"
    level: Level | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of curves over the steps: a panel for each arm, or of a single curve one panel with a line for each arm.

    Attributes:
        name: of the file.
        title: what it shows.
        ylabel: with the unit, where there is one.
        curves: drawn in order.
        log: logarithmic vertical axis; otherwise one from 0 to 1.
        over_grid: the two settings, those of the rows and of the columns, over which a sweep draws it too; none for a
            figure of runs alone.
        against: columns of the curves that the others are compared with where they coincide, see `Panel`.
        note: what the heading of an arm's panel says of the records of its seeds, empty for nothing.
    """

    name: str
    title: str
    ylabel: str
    curves: tuple[Curve, ...]
    log: bool = True
    over_grid: tuple[str, str] | None = None
    against: tuple[str, ...] = ()
    note: Callable[[Sequence[Sequence[Mapping[str, Read]]]], str] | None = None


@dataclass(frozen=True)
class Line:
    """A line, or points, of a panel.

    Attributes:
        x: where, None or NaN where there is nothing.
        y: what, likewise.
        label: for the legend; lines of one figure with the same label share colour and entry.
        style: a matplotlib format without colour: ``"-"``, ``"o"``, ``"o--"``.
        beside: a label whose line this one is drawn thinly beside, in its colour: another radius beside the best, say.
        low: the lower end of the interval at each x, None where there is none; empty for no intervals. Those of marked
            points (a style with ``o`` or ``s``) are drawn as error bars, those of a line as a band.
        high: their upper ends.
        seeds: seed → its values at ``x``, where the line is a mean over seeds. Up to 20 are drawn thinly beside it.
            Where the difference of two lines is drawn, they are paired by seed.
        tint: lines and levels of the same tint have the same colour; by default the label.
    """

    x: Sequence[float | None]
    y: Sequence[float | None]
    label: str = ""
    style: str = "-"
    beside: str = ""
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    seeds: Mapping[int, Sequence[float | None]] = field(default_factory=dict)
    tint: str = ""

    @property
    def colour(self) -> str:
        """What its colour is kept under."""
        return self.tint or self.beside or self.label

    @property
    def is_marked(self) -> bool:
        """Whether its points are marked."""
        return any(marker in self.style for marker in "os^vD")


def banded(found: Mapping[float, Estimate], label: str, style: str = "o-") -> Line:
    """A line through the means over seeds with their 95 % intervals; ``found``: by x."""
    edges = [each.band or (None, None) for each in found.values()]
    low, high = ([edge[end] for edge in edges] for end in (0, 1))
    return Line(list(found), [each.mean for each in found.values()], label, style, low=low, high=high)


def over_seeds(
    curves: Mapping[int, Mapping[float, float]], label: str, style: str = "-", tint: str = "", *, some: bool = False
) -> Line:
    """The mean over seeds where all of them have a value, with its 95 % interval.

    Args:
        curves: seed → x → y.
        label: see `Line`, as the others.
        style: likewise.
        tint: likewise.
        some: take also the mean over those that have a value, where others have none.
    """
    x = sorted({x for curve in curves.values() for x in curve})
    values = {at: [curve[at] for curve in curves.values() if at in curve] for at in x}
    shared = {at: estimate(ys) for at, ys in values.items() if some or len(ys) == len(curves)}
    edges = [(found.band if (found := shared.get(at)) else None) or (None, None) for at in x]
    low, high = ([edge[end] for edge in edges] for end in (0, 1)) if len(curves) > 1 else ((), ())
    means = [found.mean if (found := shared.get(at)) else None for at in x]
    seeds = {seed: [curve.get(at) for at in x] for seed, curve in curves.items()}
    return Line(x, means, label, style, low=low, high=high, seeds=seeds, tint=tint)


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Panels of one figure whose axes have the same label show the same range. A line that equals an earlier one
    everywhere is not drawn over it: the heading says so.

    Attributes:
        title: above.
        xlabel: with the unit, where there is one.
        ylabel: likewise. What is to be compared has the same label, what isn't another.
        lines: drawn in order.
        logx: logarithmic horizontal axis.
        logy: logarithmic vertical axis.
        levels: drawn across.
        against: labels of lines that the others are compared with. Where a line lies on another for half of its
            length, a panel below shows how far it is from the first of these, of the same tint, on which it lies, or
            else the first: as a difference, or on a logarithmic axis as a ratio.
        better: ``"lower"`` or ``"higher"`` if x is a grid's values and that is the better y: the best point of a line
            is marked if it lies where the grid ends. With ``against``, which are at 0, it has no lower end.
        note: a line of the heading: what a reader wouldn't see.
        bounds: the range of the vertical axis, if it has one by nature.
    """

    title: str
    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    logx: bool = False
    logy: bool = False
    levels: Sequence[Level] = ()
    against: Sequence[str] = ()
    better: str = ""
    note: str = ""
    bounds: tuple[float, float] | None = None

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
