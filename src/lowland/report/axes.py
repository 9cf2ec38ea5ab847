"""A grid's settings as axes and labels of a figure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lowland.training.sweep.cells import Cell
from lowland.wording import short

_WIDE = 52  # characters in a line above the narrowest figure
_SYMBOLS = {"lr": "η", "rho": "ρ"}


def symbol(name: str) -> str:
    """The label of a setting or column in figures: a symbol where there is one."""
    return _SYMBOLS.get(name, name.replace("_", " "))


def labelled(settings: Mapping[str, Any]) -> str:
    """Settings as a label: ``η = 0.1, ρ = 0``."""
    return ", ".join(f"{symbol(name)} = {short(value)}" for name, value in settings.items())


def heading(label: str, what: str, title: str) -> str:
    """The heading of a figure: what it shows, and of which experiment, in one line or two."""
    both = f"{label[:1].upper()}{label[1:]}: {what}"
    return f"{both if len(both) <= _WIDE else both.replace(': ', ':' + chr(10), 1)}\n{title}"


def file_part(name: str) -> str:
    """The name of a setting or column as part of a file name."""
    return name.replace("_", "-")


def values_of(cells: Sequence[Cell], name: str) -> list[Any]:
    """The values of a setting over the grid: numbers in ascending order, others in the grid's order."""
    values = list(dict.fromkeys(cell.settings[name] for cell in cells))
    return sorted(values) if all(map(_is_number, values)) else values


def numeric(cells: Sequence[Cell]) -> list[str]:
    """The settings with two or more numbers as values, in the grid's order."""
    names = cells[0].settings if cells else {}
    found = {name: values_of(cells, name) for name in names}
    return [name for name, values in found.items() if len(values) > 1 and all(map(_is_number, values))]


def others(cell: Cell, names: Iterable[str]) -> tuple[tuple[str, Any], ...]:
    """A cell's settings other than ``names``."""
    return tuple((name, value) for name, value in cell.settings.items() if name not in set(names))


def suits_logarithm(grid: Sequence[float]) -> bool:
    """Whether a setting's values suit a logarithmic axis: above 0, and nearer to even steps there than on a linear one.

    Two values do from a factor of ten on.
    """
    ordered = sorted(set(grid))
    if len(ordered) < 3:
        return bool(ordered) and ordered[0] > 0 and ordered[-1] >= 10 * ordered[0]
    return ordered[0] > 0 and _unevenness(list(map(math.log, ordered))) < _unevenness(ordered)


def _unevenness(ordered: Sequence[float]) -> float:
    """The widest over the narrowest step."""
    steps = [after - before for before, after in pairwise(ordered)]
    return max(steps) / min(steps)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether ``values`` suit a logarithmic axis: all above 0, and spanning more than a factor of ten."""
    return bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
