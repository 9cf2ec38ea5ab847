"""What runs write, and the one place that reads it: JSON, records, tensors, each checked before anybody relies on it.

Damage is content that fails a check. A file that the system can't read (permission, memory, a disk that fails) is no
damage, and nobody is told to remove it: the system's own error passes.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lowland.errors import RunError
from lowland.files import naming, refuse_special, write_atomically
from lowland.training.outcome import Record
from lowland.values import Json, JsonObject, Read

NUMBER = (int, float)

#: What `fault` takes for the shape of a value, and says of it.
Shape: TypeAlias = "type | tuple[type, ...] | Sequence[Shape] | Mapping[str, Shape] | Maybe | Each | Within"


def write_json(path: Path, value: Json) -> None:
    """Write ``value`` as indented JSON, atomically; numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def finite(value: Json) -> Read:
    """``value`` with every NaN and infinity in it replaced by None: JSON knows neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


@dataclass(frozen=True)
class Maybe:
    """``shape``, or nothing: None, or an entry that isn't there."""

    shape: Shape


@dataclass(frozen=True)
class Each:
    """A dictionary from text to ``shape``."""

    shape: Shape


@dataclass(frozen=True)
class Within:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int


def fault(value: object, shape: Shape, where: str = "it") -> str:
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


def _first(found: Iterable[str]) -> str:
    return next((text for text in found if text), "")


_RECORD: Shape = {"arm": str, "step": Within(0, 2**63 - 1)}


def read_bytes(path: Path) -> bytes:
    """All of a file; errors name it. What is no file, a pipe say, is not opened: that could wait for ever.

    Raises:
        OSError: if it can't be read.
        MemoryError: if there is not enough memory for it.
    """
    with naming(path):
        refuse_special(path)
        size = path.stat().st_size
        try:
            return path.read_bytes()
        except MemoryError as error:
            raise MemoryError(f"{path} has {size:,} bytes") from error


def read_json(path: Path, shape: "Shape | None" = None, remedy: str = "") -> JsonObject:
    """A JSON file.

    Args:
        path: of the file.
        shape: of its content, as `fault` takes it; by default any dictionary.
        remedy: what to do about damage; by default to remove the folder and start again.

    Raises:
        RunError: if it is no JSON, or of another shape.
        OSError: if it can't be read.
    """
    content = read_bytes(path)
    try:
        value = json.loads(content.decode())
        wrong = fault(value, {} if shape is None else shape)
    except ValueError as error:
        wrong = str(error)
    except RecursionError:
        wrong = "nested too deeply"
    if wrong:
        raise damaged(path, wrong, remedy)
    return value


def damaged(path: Path, reason: str, remedy: str = "") -> RunError:
    """The error for a file whose content fails a check."""
    return RunError(f"{path} is damaged ({reason}): {remedy or f'remove {path.parent} and start again'}")


def parse_records(path: Path, content: bytes) -> dict[str, list[Record]]:
    """The records of each arm in ``content``, which stands in the file ``path``.

    Raises:
        RunError: for a line that is no record, or whose step is not later than the one before it of the same arm.
    """
    arms: dict[str, list[Record]] = defaultdict(list)
    for number, line in enumerate(content.splitlines(), 1):
        try:
            record = json.loads(line)
            wrong = fault(record, _RECORD)
        except ValueError as error:
            wrong = f"{type(error).__name__}: {error}"
        except RecursionError:
            wrong = "nested too deeply"
        if not wrong and arms[record["arm"]] and record["step"] <= arms[record["arm"]][-1]["step"]:
            wrong = f"step {record['step']} of {record['arm']} comes after step {arms[record['arm']][-1]['step']}"
        if wrong:
            raise RunError(f"{path}, line {number} is damaged ({wrong}): remove {path.parent} and start again")
        arms[record["arm"]].append(record)
    return {arm: records for arm, records in arms.items() if records}


def read_records(path: Path, *, torn: bool = False) -> dict[str, list[Record]]:
    """The records of each arm of the run under ``path``.

    Args:
        path: the run directory.
        torn: whether a last line without its end, as a full disk leaves it, is passed over: going on cuts it off.

    Raises:
        RunError: for a line that is damaged.
        OSError: if they can't be read.
    """
    file = path / "metrics.jsonl"
    try:
        content = read_bytes(file)
    except FileNotFoundError:
        return {}
    if torn:
        content = content[: content.rfind(b"\n") + 1]
    return parse_records(file, content)


def fingerprint(records: Sequence[Record]) -> str:
    """A checksum of records, which tells whether they are those that were written."""
    lines = (json.dumps(record, sort_keys=True) for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
