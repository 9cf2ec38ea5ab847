"""The figures that runs and sweeps saved, to see and to download from the page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowland.report.page.shown import ShownDirectory
from lowland.training.files import read_bytes

_ROOM = 1_200_000  # characters that the figures of a page may take together
_KINDS = {".png": "image/png", ".pdf": "application/pdf"}


@dataclass(frozen=True)
class SavedFigure:
    """A figure of a directory.

    Attributes:
        directory: the number of its directory.
        name: without the ending.
        path: of the PNG, under the directory.
        png: as a data URI; empty where there was no room for it.
        pdf: likewise.
    """

    directory: int
    name: str
    path: str
    png: str = ""
    pdf: str = ""


def figures_of(sources: Sequence[ShownDirectory]) -> list[SavedFigure]:
    """The figures of all directories, PNG before PDF as long as there is room; the others are only named.

    Raises:
        OSError: if one can't be read.
    """
    found = [
        (index, path)
        for index, source in enumerate(sources)
        for path in sorted((source.path / "figures").glob("*.png"))
    ]
    room = _ROOM
    embedded: dict[Path, str] = {}
    for ending in _KINDS:
        for _, png in found:
            path = png.with_suffix(ending)
            if path.is_file() and path.stat().st_size * 4 / 3 <= room:
                embedded[path] = f"data:{_KINDS[ending]};base64,{base64.b64encode(read_bytes(path)).decode()}"
                room -= len(embedded[path])
    return [
        SavedFigure(index, path.stem, f"figures/{path.name}", embedded.get(path, ""),
                    embedded.get(path.with_suffix(".pdf"), ""))
        for index, path in found
    ]  # fmt: skip
