"""What a file's content must look like before anybody relies on it."""

from dataclasses import dataclass
from typing import Any

NUMBER = (int, float)


@dataclass(frozen=True)
class Maybe:
    """``shape``, or nothing: None, or an entry that isn't there."""

    shape: Any


@dataclass(frozen=True)
class Each:
    """A dictionary from text to ``shape``."""

    shape: Any


@dataclass(frozen=True)
class Within:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int


def fault(value: Any, shape: Any, where: str = "it") -> str:
    """What is wrong with ``value``, in a few words; empty if nothing is.

    Args:
        value: as JSON or a checkpoint has it.
        shape: a type or a tuple of them (bool counts as no number); ``[shape]`` for a list of such; a dictionary of the
            entries that must be there, beside which there may be others; `Each`, `Maybe` and `Within`.
        where: the value stands, for the words.
    """
    if isinstance(shape, Maybe):
        return "" if value is None else fault(value, shape.shape, where)
    if isinstance(shape, Within):
        if type(value) is not int:
            return _not(where, "a whole number")
        inside = shape.low <= value <= shape.high
        return "" if inside else f"{where} is {value}, not within {shape.low} and {shape.high}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _not(where, "a list")
        return _first(fault(entry, shape[0], f"{where}[{index}]") for index, entry in enumerate(value))
    if isinstance(shape, Each):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            return _not(where, "a dictionary of names")
        return _first(fault(entry, shape.shape, _inside(where, key)) for key, entry in value.items())
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _not(where, "a dictionary")
        lacking = [key for key, entry in shape.items() if key not in value and not isinstance(entry, Maybe)]
        if lacking:
            return f"{where} lacks {', '.join(lacking)}"
        return _first(fault(value.get(key), entry, _inside(where, key)) for key, entry in shape.items())
    kinds = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
        return _not(where, " or ".join(_NAMES.get(kind, kind.__name__) for kind in kinds))
    return ""


_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "a dictionary"}


def _inside(where: str, key: str) -> str:
    name = key if len(key) <= 60 else f"{key[:60]}…"
    return name if where == "it" else f"{where}.{name}"


def _not(where: str, what: str) -> str:
    return f"{where} is not {what}"


def _first(found: Any) -> str:
    return next((text for text in found if text), "")
