"""Grids: which settings take which values, and the points that come of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

from lowland.errors import SettingError
from lowland.training.experiment import Experiment
from lowland.training.files import read_bytes
from lowland.training.settings import Settings, SettingValue, check, values_of
from lowland.values import JsonObject, Read

_MOST = 100_000


@dataclass(frozen=True)
class Grid:
    """The points of a grid, in its order.

    Attributes:
        varied: the settings that it gives values to, in its order.
        points: label → settings; the label says the value of each varied setting.
    """

    varied: tuple[str, ...]
    points: Mapping[str, Settings]


def read_grid(path: Path) -> list[dict[str, list[Read]]]:
    """A grid file: ``{"rho": [0, 0.1], "seed": [0, 1]}``, or a list of such dictionaries. A single value needs no list.

    Raises:
        SettingError: if it can't be read, or is something else.
    """
    try:
        content = json.loads(read_bytes(path).decode(), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise SettingError(
            f"there is no grid file {path}; --grid takes one that `lowland show` prints, or a file"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"the grid file {path} can't be read: {reason}") from None
    parts = content if isinstance(content, list) else [content]
    if not parts or not all(isinstance(part, dict) and part for part in parts):
        raise SettingError(f'the grid file {path} must hold {{"rho": [0, 0.1], "seed": [0, 1]}}, or a list of such')
    return [{key: value if isinstance(value, list) else [value] for key, value in part.items()} for part in parts]


def _unique(pairs: list[tuple[str, Read]]) -> JsonObject:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands there twice")
    return dict(pairs)


def make_grid(experiment: Experiment, base: Settings, parts: Sequence[Mapping[str, Sequence[Read]]]) -> Grid:
    """Every combination of the values of each part, put into ``base``.

    Raises:
        SettingError: for an unknown setting, a bad value, an empty list, or a point that comes twice.
    """
    varied = tuple(dict.fromkeys(name for part in parts for name in part))
    points: dict[str, Settings] = {}
    count = sum(prod(len(values) for values in part.values()) for part in parts)
    if count > _MOST:
        raise SettingError(f"the grid has {count} points; more than {_MOST} are not trained at once")
    for part in parts:
        for name, values in part.items():
            if not values:
                raise SettingError(f"the grid has no values for {name}: the list is empty")
        checked = {name: [check(experiment.settings, name, value) for value in values] for name, values in part.items()}
        for values in product(*checked.values()):
            chosen = values_of(base) | dict(zip(checked, values, strict=True))
            settings = experiment.settings(**chosen)
            label = ",".join(f"{name}={_short(chosen[name])}" for name in varied)
            if label in points:
                raise SettingError(f"the grid has the point {label} twice")
            points[label] = settings
    return Grid(varied, points)


def arms_beyond(arms: Mapping[str, Mapping[str, Read]], points: Iterable[Mapping[str, Read]]) -> list[str]:
    """Which of an experiment's ``arms`` have settings that no point of a grid has, each given with all its settings."""
    there = list(points)
    return [arm for arm, fixed in arms.items() if not any(fixed.items() <= point.items() for point in there)]


def _short(value: SettingValue) -> str:
    """``value`` as few characters as tell it from every other."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
