"""The settings of each directory, with where each value comes from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lowland.report.page.groups import stem
from lowland.report.page.rounding import number, short
from lowland.report.page.shown import ShownDirectory
from lowland.values import Read
from lowland.wording import few

ORIGINS = {
    "paper": "the paper states it",
    "ours": "our choice: the paper leaves it open, or the scale asks for another",
    "yours": "the experiment's own file says it",
    "default": "nobody has said another",
    "arm": "it makes the arm what it is",
    "grid": "the sweep's grid gives it",
    "seeds": "each seed in turn",
    "set": "set by hand",
}

_ORDER = ("differs", "partial", "alike")


@dataclass(frozen=True)
class ShownValue:
    """A setting's value in a directory, where it comes from, and of which arms; empty for all of them."""

    text: str
    origin: str
    arms: str = ""
    note: str = ""


@dataclass(frozen=True)
class ShownSetting:
    """A setting.

    Attributes:
        name: as ``--set`` takes it.
        text: what it is.
        cells: its values in each directory; none where it is no setting.
        standing: ``"differs"`` between directories, ``"partial"`` where not all have it, ``"alike"``.
    """

    name: str
    text: str
    cells: Sequence[Sequence[ShownValue]]
    standing: str


def settings_of(sources: Sequence[ShownDirectory]) -> list[ShownSetting]:
    """All settings of all directories, in the order of `_ORDER`."""
    names = dict.fromkeys(name for source in sources for run in source.runs for name in run.settings)
    rows = []
    for name in names:
        cells = [_cell(source, name) for source in sources]
        if not any(cells):
            continue
        told = {json.dumps([(value.text, value.arms) for value in cell]) for cell in cells}
        standing = "partial" if not all(cells) else "differs" if len(told) > 1 else "alike"
        rows.append(ShownSetting(name, _text(sources, name), cells, standing))
    return sorted(rows, key=lambda row: _ORDER.index(row.standing))


def origins_of(settings: Sequence[ShownSetting]) -> dict[str, str]:
    """The origins that these have, each with what it means."""
    there = {value.origin for setting in settings for cell in setting.cells for value in cell}
    return {origin: words for origin, words in ORIGINS.items() if origin in there}


def _cell(source: ShownDirectory, name: str) -> list[ShownValue]:
    if name == "seeds" and source.is_sweep:
        return []  # each seed is a point of the grid
    found: dict[str, tuple[Read, list[str]]] = {}
    for run in source.runs:
        if name in run.settings:
            value = run.settings[name]
            found.setdefault(json.dumps(value), (value, []))[1].append(stem(run))
    if name in source.varied or (name == "seed" and len(found) > 1):
        values = _in_order([value for value, _ in found.values()])
        return [ShownValue(", ".join(map(_written, values)), "grid" if name in source.varied else "seeds")]
    several = len(found) > 1
    return [_value(source, name, value, list(dict.fromkeys(arms)), several) for value, arms in found.values()]


def _value(source: ShownDirectory, name: str, value: Read, arms: Sequence[str], several: bool) -> ShownValue:
    whose = few(arms) if several else ""
    if source.description is None:
        return ShownValue(_written(value), "", whose)
    fixed = source.description["arms"]
    stated = source.description["settings"].get(name)
    if not source.is_sweep and all(fixed.get(arm, {}).get(name, _NOTHING) == value for arm in arms):
        return ShownValue(_written(value), "arm", whose)
    if stated is not None and stated["value"] == value:
        return ShownValue(_written(value), stated["origin"], whose, stated["note"])
    return ShownValue(_written(value), "set", whose)


_NOTHING = object()


def _text(sources: Sequence[ShownDirectory], name: str) -> str:
    texts = [source.description["settings"].get(name, {}).get("text", "") for source in sources if source.description]
    return next(filter(None, texts), "")


def _written(value: Read) -> str:
    return f"{value:.10g}" if isinstance(value, float) else short(value)


def _in_order(values: Sequence[Read]) -> list[Read]:
    return sorted(values) if all(number(value) is not None for value in values) else list(values)
