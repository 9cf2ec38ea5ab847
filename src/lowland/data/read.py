"""Every part of a dataset as an array, with whatever is wrong on the way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from lowland.data import cifar, idx, text
from lowland.data.files import find, unpack
from lowland.data.registry import Part, Source
from lowland.errors import DataError

#: What each format knows: ``decode`` for the bytes of one part, ``splits`` for all arrays together.
FORMATS: dict[str, ModuleType] = {"idx": idx, "cifar": cifar, "text": text}


@contextmanager
def collected(problems: list[DataError]) -> Iterator[None]:
    """Append a `DataError` raised inside to ``problems`` and go on behind."""
    try:
        yield
    except DataError as error:
        problems.append(error)


def read(source: Source, folder: Path) -> tuple[list[np.ndarray], list[DataError]]:
    """The arrays of ``source.parts``, uint8, in their order, and every problem found; never raises for those.

    With problems the list of arrays is short of the damaged parts. Each problem names its file.
    """
    held: dict[Path, list[Part]] = {}
    arrays: dict[Part, np.ndarray] = {}
    problems: list[DataError] = []
    for part in source.parts:
        path = find(part, folder)
        if path is None:
            problems.append(DataError(f"{' or '.join(str(folder / place) for place in part.places)} is missing"))
        else:
            held.setdefault(path, []).append(part)
    for path, parts in held.items():
        with collected(problems):
            for part, data in unpack(path, parts):
                where = f"{part.member} in {path}" if path.name.endswith(".tar.gz") else str(path)
                with collected(problems):
                    arrays[part] = FORMATS[source.format].decode(data, where, part, source)
    return [arrays[part] for part in source.parts if part in arrays], problems
