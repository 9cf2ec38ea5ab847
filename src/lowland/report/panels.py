"""Draws panels: lines with intervals and seeds, levels, bars; and gives those that are compared the same axes."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lowland.report.canvas import COLOURS, label_positions, plain_logarithm
from lowland.report.coincidence import finite, points
from lowland.report.grid_end import LABEL, best_at_end
from lowland.report.reach import CUT, name_beyond, span
from lowland.training import Bars, Line, Panel
from lowland.wording import short

_GREY = "#999999"
_MOST = 20  # seeds that are drawn one by one: more would hide the mean
_THIN: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.6}
_ROOM = 0.05  # of an axis beyond what is drawn
_NUMBER = 0.1  # of an axis, that the number at a tick takes
_APART = 0.008  # of an axis, by which the error bars of neighbouring lines are moved


class Legend:
    """The entries of a figure's legend by label: lines first, then levels and marks."""

    def __init__(self) -> None:
        self.lines: dict[str, Any] = {}
        self.others: dict[str, Any] = {}

    @property
    def entries(self) -> list[Any]:
        """All of them in order, as matplotlib takes them."""
        return [*self.lines.values(), *self.others.values()]


def colours_of(panels: Sequence[Panel | Bars]) -> dict[str, str]:
    """Colours by what they are kept under; what finds none left is grey."""
    found: list[str] = []
    for panel in panels:
        found += panel.labels if isinstance(panel, Bars) else [line.colour for line in shown(panel) if line.label]
    return dict(zip(dict.fromkeys(found), COLOURS, strict=False))


def shown(panel: Panel) -> list[Line]:
    """The lines that have anything to draw."""
    return [line for line in panel.lines if points(line, panel.logy, panel.logx)]


def draw_panel(
    axis: Any, panel: Panel, colours: Mapping[str, str], legend: Legend, said: str = "", width: int = 40
) -> None:
    """Draw one panel and add to the ``legend``.

    ``said``: what its heading says beside its note; ``width``: characters in a line of the heading.
    """
    lines = shown(panel)
    whiskered = [line for line in lines if line.low and line.is_marked]
    for line in lines:
        shift = whiskered.index(line) - (len(whiskered) - 1) / 2 if line in whiskered else 0.0
        drawn = _draw_line(axis, line, panel, colours.get(line.colour, _GREY), shift * _APART)
        if line.label:
            legend.lines[line.label] = drawn
        if (best := best_at_end(line, panel)) is not None:
            legend.others[LABEL] = ring(axis, best, LABEL)
    for level in panel.levels:
        if finite(level.value, panel.logy):
            legend.others[level.label] = axis.axhline(
                level.value, linestyle=level.style, linewidth=1.2, color=colours.get(level.beside, _GREY),
                label=level.label,
            )  # fmt: skip
    heading = [panel.title, *textwrap.wrap("; ".join(filter(None, (panel.note, said))), width, break_on_hyphens=False)]
    axis.set_title("\n".join(filter(None, heading)), fontsize=9)
    axis.set_xlabel(panel.xlabel)
    axis.set_ylabel(panel.ylabel)
    for log, which in ((panel.logx, "x"), (panel.logy, "y")):
        if log:
            getattr(axis, f"set_{which}scale")("log")


def ring(axis: Any, at: tuple[float, float], label: str) -> Any:
    """Mark a point by a ring; returns its entry in the legend."""
    (drawn,) = axis.plot(
        *at, "o", markersize=10, markerfacecolor="none", markeredgecolor="black", linestyle="", label=label
    )
    return drawn


def _draw_line(axis: Any, line: Line, panel: Panel, colour: str, shift: float) -> Any:
    """Draw a line with its seeds or its intervals, moved by a share of the axis; returns its entry in the legend."""
    x, y = _moved(numbers(line.x, panel.logx), shift, panel), numbers(line.y, panel.logy)
    seeds, intervals = _around(line)
    for values in seeds:
        axis.plot(x, numbers(values, panel.logy), line.style, color=colour, **_THIN)
    single = sum(map(math.isfinite, y)) == 1 and not line.is_marked  # a line of one point isn't seen
    how: dict[str, Any] = _THIN if line.beside else {}
    (drawn,) = axis.plot(
        x, y, line.style + ("o" if single else ""), color=colour, label=line.label or None, markersize=4, **how
    )
    if intervals:
        low, high = (numbers(_above(floor(panel), ends), panel.logy) for ends in intervals)
        if line.is_marked:
            lengths = [[b - a for a, b in zip(*ends, strict=True)] for ends in ((low, y), (y, high))]
            axis.errorbar(x, y, lengths, fmt="none", ecolor=colour, elinewidth=0.9, capsize=2)
        else:
            axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    return drawn


def _around(line: Line) -> tuple[Sequence[Sequence[float | None]], Sequence[Sequence[float | None]]]:
    """What is drawn around a line: the values of its seeds, or the lower and upper ends of its intervals."""
    if 1 < len(line.seeds) <= _MOST and not line.is_marked:
        return list(line.seeds.values()), ()
    return (), (line.low, line.high) if line.low else ()


def floor(panel: Panel) -> float | None:
    """Where an interval ends that reaches below 0, on an axis that has no place for that.

    Such are a logarithmic one, and one of values that are never negative, unless 0 is marked as a level on it.
    """
    found = [y for line in panel.lines for y in points(line, panel.logy).values()]
    if panel.logy:
        return min(found) / 2 if found else None
    return 0.0 if all(y >= 0 for y in found) and all(level.value > 0 for level in panel.levels) else None


def _above(least: float | None, values: Sequence[float | None]) -> list[float | None]:
    return [value if value is None or least is None else max(value, least) for value in values]


def _moved(x: Sequence[float], shift: float, panel: Panel) -> list[float]:
    every = [value for line in shown(panel) for value in points(line, panel.logy, panel.logx)]
    if panel.logx:
        return [value * (max(every) / min(every)) ** shift for value in x]
    return [value + shift * (max(every) - min(every)) for value in x]


def draw_bars(axis: Any, panel: Bars, colours: Mapping[str, str], legend: Legend) -> None:
    """Draw one panel of bars and add to the ``legend``."""
    width = 0.8 / len(panel.labels)
    for number, label in enumerate(panel.labels):
        shift = (number - (len(panel.labels) - 1) / 2) * width
        positions = [index + shift for index in range(len(panel.names))]
        legend.lines[label] = axis.bar(
            positions, numbers(panel.heights[label], False), width, yerr=numbers(panel.errors[label], False),
            color=colours.get(label, _GREY), label=label, error_kw={"elinewidth": 0.8, "capsize": 2},
        )  # fmt: skip
    axis.grid(False, axis="x")
    label_positions(axis.xaxis, panel.names, 3.4)
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlabel(panel.xlabel)
    axis.set_ylabel(panel.ylabel)


def share_axes(drawn: Sequence[tuple[Any, Panel | Bars]]) -> None:
    """Give axes with the same label the same range, and axes on which all is one value a tick there and no other.

    Bars have axes of their own, the vertical one from 0 on. A panel whose intervals are cut off says so in its heading.
    """
    for which in ("x", "y"):
        groups: dict[tuple[str, bool], list[tuple[Any, Panel]]] = {}
        for axis, panel in drawn:
            if isinstance(panel, Panel):
                key = (panel.xlabel, panel.logx) if which == "x" else (panel.ylabel, panel.logy)
                groups.setdefault(key, []).append((axis, panel))
        for (_, log), members in groups.items():
            _share(which, log, members)


def _share(which: str, log: bool, members: Sequence[tuple[Any, Panel]]) -> None:
    panels = [panel for _, panel in members]
    bounds = {end for panel in panels for end in panel.bounds or ()} if which == "y" else set()
    values = bounds or (_places(panels) if which == "x" else _heights(panels))
    low, high = min(values), max(values)
    for axis, panel in members:
        along = getattr(axis, f"{which}axis")
        if low == high:  # no ticks where nothing was measured
            along.set_ticks([low], [short(low) if float(low).is_integer() else f"{low:.4g}"])
            along.set_ticks([], minor=True)
        elif log:
            room = (high / low) ** _ROOM
            getattr(axis, f"set_{which}lim")(low / room, high * room)
            if high < 1e3 * low:  # over more decades, powers of ten are easier to read
                plain_logarithm(along)
        else:
            room = _ROOM * (high - low)
            getattr(axis, f"set_{which}lim")(low if low in bounds else low - room, high + room)
            if which == "x" and all(float(value).is_integer() for value in values):
                along.get_major_locator().set_params(integer=True)
        if which == "x" and low < high and _is_grid(values, panels):
            along.set_ticks(sorted(values), [f"{value:.4g}" for value in sorted(values)])
            along.set_ticks([], minor=True)
        if which == "y":
            name_beyond(axis, [level for level in panel.levels if finite(level.value, log)], (low, high))
            if any(not low <= y <= high for y in _ends(panel)):
                axis.set_title("\n".join(filter(None, (axis.get_title(), CUT))), fontsize=axis.title.get_fontsize())


def _is_grid(values: set[float], panels: Sequence[Panel]) -> bool:
    """Whether the places of an axis are those of marked points, and have room for their numbers."""
    at = sorted(math.log(value) if panels[0].logx else value for value in values)
    apart = min(after - before for before, after in pairwise(at)) / (at[-1] - at[0])
    return apart >= _NUMBER and all(line.is_marked for panel in panels for line in shown(panel))


def _places(panels: Sequence[Panel]) -> set[float]:
    """Every x of panels."""
    return {x for panel in panels for line in shown(panel) for x in points(line, panel.logy, panel.logx)}


def _heights(panels: Sequence[Panel]) -> set[float]:
    """The lowest and the highest y of a vertical axis that panels share."""
    log = panels[0].logy
    own = list[float]()
    for panel in panels:
        for line in shown(panel):
            own += points(line, log, panel.logx).values()
            own += [y for ys in _around(line)[0] for y in ys if y is not None and finite(y, log)]
    around = [y for panel in panels for y in _ends(panel)]
    levels = [level for panel in panels for level in panel.levels if finite(level.value, log)]
    found = span(own, around, levels, log)
    assert found is not None  # a panel without values isn't drawn
    return set(found)


def _ends(panel: Panel) -> list[float]:
    """The ends of all intervals that are drawn in a panel."""
    several = [ys for line in shown(panel) for ys in _around(line)[1]]
    return [y for ys in several for y in _above(floor(panel), ys) if y is not None and finite(y, panel.logy)]


def numbers(values: Sequence[float | None], log: bool) -> list[float]:
    """``values`` for an axis, NaN where there is no place for one."""
    return [math.nan if value is None or (log and not value > 0) else value for value in values]
