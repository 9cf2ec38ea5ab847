"""Waterbirds: birds of water and land, cut out and put before backgrounds of water and land.

``metadata.csv`` lies beside the folders of images, and has the columns ``img_filename``, ``y`` (1 is a waterbird),
``split`` (0 for training, 1 for validation, 2 for test) and ``place`` (1 is water). Source: Sagawa et al. 2020.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from lowland.data.files import placed, readable
from lowland.data.grouped import GroupedDataset, GroupedListing, divide, read_grouped
from lowland.data.registry import source
from lowland.data.root import data_root
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
    with readable(path), open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in ("img_filename", *COLUMNS) if name not in reader.fieldnames]
        if missing:
            raise DataError(f"{path} has no column {', '.join(missing)}")
        for row in reader:
            values = {name: (row[name] or "").strip() for name in ("img_filename", *COLUMNS)}
            for name, count in COLUMNS.items():
                if values[name] not in map(str, range(count)):
                    allowed = " or ".join(map(str, range(count)))
                    raise DataError(f"{path}, line {reader.line_num}: {name} is {allowed}, not {values[name]!r}")
            if not values["img_filename"]:
                raise DataError(f"{path}, line {reader.line_num}: img_filename is empty")
            yield values["img_filename"], int(values["y"]), int(values["place"]), int(values["split"])
