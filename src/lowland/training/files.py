"""JSON that is written in full or not at all."""

import json
import math
from pathlib import Path
from typing import Any

from lowland.files import naming, write_atomically

__all__ = ["finite", "naming", "write_atomically", "write_json"]


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def finite(value: Any) -> Any:
    """``value`` with every NaN and infinity in it replaced by None: JSON knows neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value
