"""The one place that reads what runs write: JSON, records, tensors. Each is checked before anybody relies on it.

Damage is content that fails a check. A file that the system can't read (permission, memory, a disk that fails) is no
damage, and nobody is told to remove it: the system's own error passes.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowland.errors import RunError
from lowland.files import naming, refuse_special
from lowland.training.outcome import Record
from lowland.training.shapes import Within, fault

_RECORD = {"arm": str, "step": Within(0, 2**63 - 1)}


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


def read_json(path: Path, shape: Any = None, remedy: str = "") -> dict[str, Any]:
    """A JSON file.

    Args:
        path: of the file.
        shape: of its content, as `lowland.training.shapes.fault` takes it; by default any dictionary.
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
