"""How far a vertical axis reaches: to every curve, and not so far beyond that what it shows is squashed."""

import math
from collections.abc import Sequence
from typing import Any

from lowland.training import Level

# Of the curves' own height, by which they may widen an axis on either side.
_INTERVALS, _LEVELS = 0.5, 1.0
CUT = "intervals reach beyond the axes"


def span(
    own: Sequence[float], around: Sequence[float], levels: Sequence[Level], log: bool
) -> tuple[float, float] | None:
    """The lowest and the highest value of an axis; None where nothing is drawn.

    Args:
        own: the values of curves, all of them on the axis.
        around: the ends of their intervals. These widen the axis by half of its height at most, to either side.
        levels: those whose ``within`` is true are on the axis. The others are if they lie within its height of it.
        log: whether it is logarithmic; then all are above 0.
    """
    place, back = (math.log10, lambda at: 10.0**at) if log else (float, float)
    always = [level.value for level in levels if level.within]
    core = [place(value) for value in (*own, *always)]
    others = [place(level.value) for level in levels if not level.within]
    if not core:
        every = [*map(place, around), *others]
        return (back(min(every)), back(max(every))) if every else None
    low, high = _widened(min(core), max(core), list(map(place, around)), cut=True)
    low, high = _widened(low, high, others, cut=False)
    ends = {place(value): value for value in (*own, *around, *(level.value for level in levels))}
    return ends.get(low, back(low)), ends.get(high, back(high))


def _widened(low: float, high: float, more: Sequence[float], *, cut: bool) -> tuple[float, float]:
    """The range with what lies near it; what lies farther ``cut`` there, or left out."""
    room = (_INTERVALS if cut else _LEVELS) * (high - low) or math.inf
    near = [max(low - room, min(high + room, value)) for value in more if cut or low - room <= value <= high + room]
    return min([low, *near]), max([high, *near])


def name_beyond(axis: Any, levels: Sequence[Level], limits: tuple[float, float]) -> None:
    """Name the levels outside of an axis's ``limits`` at its edge, with an arrow, in the colour of their lines."""
    paints = {line.get_label(): line.get_color() for line in axis.lines}
    for below, edge, sign, way in ((True, 0.0, "↓", 1), (False, 1.0, "↑", -1)):
        there = [level for level in levels if (level.value < limits[0] if below else level.value > limits[1])]
        for row, level in enumerate(there):
            axis.annotate(
                f"{sign} {level.label}: {level.value:.3g}", (0.99, edge), xycoords="axes fraction",
                xytext=(0, way * (2 + 8 * row)), textcoords="offset points", fontsize=7, ha="right",
                va="bottom" if below else "top", color=paints.get(level.label, "black"),
            )  # fmt: skip
