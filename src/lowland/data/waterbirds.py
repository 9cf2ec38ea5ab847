"""Waterbirds: birds of water and land, cut out and put before backgrounds of water and land.

``metadata.csv`` lies beside the folders of images, and has the columns ``img_filename``, ``y`` (1 is a waterbird),
``split`` (0 for training, 1 for validation, 2 for test) and ``place`` (1 is water). Source: Sagawa et al. 2020.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from lowland.data.files import data_root, lines, placed
from lowland.data.grouped import GroupedDataset, GroupedListing, divide, read_grouped
from lowland.data.registry import source
from lowland.errors import DataError

COLUMNS = {"y": 2, "place": 2, "split": 3}  # how many values each has


def load_waterbirds(root: str | Path | None = None, *, size: int = 224, progress: bool = True) -> GroupedDataset:
    """Waterbirds from the data root, its images decoded once for each size.

    Args:
        root: the data root; by default ``$LOWLAND_DATA``.
        size: height and width of the images. The middle of 224 pixels of every 256 is kept (Sagawa et al. 2020).
        progress: whether a bar is shown on stderr, where it is a terminal.

    Returns:
        The publisher's three splits, inputs uint8 ``(n, 3, size, size)``, memory-mapped; targets are the birds,
        attributes the backgrounds.

    Raises:
        DataError: if ``metadata.csv``, a column, an image or a split is missing, or one of them can't be read.
        SettingError: for a size below 1.
    """
    return read_grouped("waterbirds", root, listing(data_root(root) / "waterbirds"), size, "middle", progress)


def listing(folder: Path) -> GroupedListing:
    """What the table in ``folder`` says; raises as `load_waterbirds` does."""
    (table,) = placed(source("waterbirds"), folder)
    return GroupedListing(
        table.parent, divide(_rows(table), table), source("waterbirds").classes, ("land background", "water background")
    )


def _rows(path: Path) -> Iterator[tuple[str, int, int, int]]:
    wanted = ("img_filename", *COLUMNS)
    places: dict[str, int] = {}
    for number, line in lines(path):
        if not line.strip():
            continue
        fields = _fields(path, number, line)
        if not places:
            places = {name: fields.index(name) for name in wanted if name in fields}
            _check_columns(path, wanted, fields)
            continue
        values = {name: fields[place] if place < len(fields) else "" for name, place in places.items()}
        for name, count in COLUMNS.items():
            if values[name] not in map(str, range(count)):
                allowed = " or ".join(map(str, range(count)))
                raise DataError(f"{path}, line {number}: {name} is {allowed}, not {values[name][:40]!r}")
        if not values["img_filename"]:
            raise DataError(f"{path}, line {number}: img_filename is empty")
        yield values["img_filename"], int(values["y"]), int(values["place"]), int(values["split"])
    if not places:
        _check_columns(path, wanted, [])


def _fields(path: Path, number: int, line: str) -> list[str]:
    """The fields of one line. It is parsed alone, because an unclosed quote would swallow the lines after it."""
    try:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True, strict=True), [])]
    except csv.Error as error:
        raise DataError(f"{path}, line {number}: a quote that isn't closed, or another fault ({error})") from error


def _check_columns(path: Path, wanted: Iterable[str], there: list[str]) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}")
    twice = [name for name in wanted if there.count(name) > 1]
    if twice:
        raise DataError(f"{path} has the column {', '.join(twice)} more than once")
