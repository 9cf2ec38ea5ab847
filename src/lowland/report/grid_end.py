"""Where a grid ends: a best value there says that a better one may lie beyond."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lowland.report.coincidence import points
from lowland.training import Line, Panel

LABEL = "best at the grid's end"
SELECTED = "selected, at the grid's end"


def ends(values: Sequence[Any], value: Any) -> bool:
    """Whether ``value`` is the first or last of a grid's numbers, and others may lie beyond.

    Not so of ρ = 0 and the like, which has nothing below it, and of m = 1: a whole number can't be less. Nor of a grid
    with a single value, or of values that aren't numbers.
    """
    numbers = [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(numbers) != len(values) or len(set(numbers)) < 2:
        return False
    natural = value == 0 or (value == 1 and all(float(each).is_integer() for each in numbers))
    return bool(value == max(numbers) or (value == min(numbers) and not natural))


def said_at_end(
    selected: Mapping[str, Any], grid: Iterable[Mapping[str, Any]], name: Callable[[str], str] = str
) -> str:
    """Which of the ``selected`` settings are the last of their ``grid``, in a sentence; empty if none is.

    Args:
        selected: setting → value.
        grid: the settings of its points.
        name: what a setting is called.
    """
    points = list(grid)
    among = {each: list({point[each]: None for point in points if each in point}) for each in selected}
    last = [name(each) for each, value in selected.items() if ends(among[each], value)]
    return (
        f"It lies at the end of the grid in {' and '.join(last)}: a wider grid may have a better one." if last else ""
    )


def best_at_end(line: Line, panel: Panel) -> tuple[float, float] | None:
    """The best of a line's marked points if the panel's grid ends there; see `Panel`."""
    found = points(line, panel.logy, panel.logx)
    if not panel.better or not line.is_marked or not line.label or len(found) < 2:
        return None
    top = (min if panel.better == "lower" else max)(found.values())
    best = [x for x, y in found.items() if y == top]
    grid = [x for x in line.x if x is not None]  # with those where nothing was found, as all diverged
    at_ends = [x for x in best if ends(grid, x) and not (panel.against and x == min(grid))]
    return (best[0], top) if len(at_ends) == len(best) else None
