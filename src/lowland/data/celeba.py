"""CelebA: faces with 40 attributes, of which one is the target and another the second feature.

The tables of the publisher: ``list_attr_celeba.txt`` (how many images; the names of the attributes; then file and 1 or
-1 for each) and ``list_eval_partition.txt`` (file and 0 for training, 1 for validation, 2 for test). The same tables
as ``.csv``, which mirrors have, start with a line that names the columns. Source: Liu et al. 2015.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lowland.data.files import data_root, lines, placed
from lowland.data.grouped import SPLITS, GroupedDataset, GroupedListing, divide, read_grouped
from lowland.data.images import some
from lowland.data.registry import source
from lowland.errors import DataError, SettingError, suggestion

Row = tuple[int, list[str]]  # the number of the line, and its fields


def load_celeba(
    root: str | Path | None = None,
    *,
    size: int = 224,
    target: str = "Blond_Hair",
    attribute: str = "Male",
    progress: bool = True,
) -> GroupedDataset:
    """CelebA from the data root, its images decoded once for each size.

    Args:
        root: the data root; by default ``$LOWLAND_DATA``.
        size: height and width of the images; the square in their centre is kept (Sagawa et al. 2020).
        target: name of the attribute to be predicted; class 1 has it.
        attribute: name of the second feature; class 1 has it.
        progress: whether a bar is shown on stderr, where it is a terminal.

    Returns:
        The publisher's three splits, inputs uint8 ``(n, 3, size, size)``, memory-mapped.

    Raises:
        DataError: if a file, an attribute, an image or a split is missing, or one of them can't be read.
        SettingError: for a size below 1, or if target and attribute are the same.
    """
    found = listing(data_root(root) / "celeba", target, attribute)
    return read_grouped("celeba", root, found, size, "square", progress)


def listing(folder: Path, target: str = "Blond_Hair", attribute: str = "Male") -> GroupedListing:
    """What the tables in ``folder`` say; raises as `load_celeba` does."""
    if target == attribute:
        raise SettingError(f"Target and attribute are both {target}: choose two.")
    images, attributes_file, partition_file = placed(source("celeba"), folder)
    if (images / images.name).is_dir():  # mirrors pack the folder into another of the same name
        images = images / images.name
    labels = _attributes(attributes_file, (target, attribute))
    partition = _partition(partition_file)
    for table, there, other, elsewhere in (
        (attributes_file, labels, partition_file, partition),
        (partition_file, partition, attributes_file, labels),
    ):
        lacking = [file for file in elsewhere if file not in there]
        if lacking:
            raise DataError(f"{table} lacks {len(lacking)} images that {other.name} has: {some(lacking)}")
    rows = ((file, *labels[file], split) for file, split in partition.items())
    classes, attributes = ((f"not {name}", name) for name in (target, attribute))
    return GroupedListing(images, divide(rows, partition_file), classes, attributes)


def _rows(path: Path) -> Iterator[Row]:
    """The lines that aren't blank, cut at commas or at any number of spaces."""
    for number, line in lines(path):
        if line.strip():
            cut = line.split(",") if path.suffix == ".csv" else line.split()
            yield number, [field.strip() for field in cut]


def _attributes(path: Path, wanted: tuple[str, str]) -> dict[str, tuple[int, int]]:
    """File → the two attributes that are ``wanted``, 0 or 1."""
    rows = _rows(path)
    count, names = None, list[str]()
    if path.suffix == ".csv":
        names = next(rows, (1, [""]))[1][1:]
    else:
        first = next(rows, (1, [""]))[1]
        if len(first) != 1 or not first[0].isdecimal() or len(first[0]) > 12:
            raise DataError(f"{path} doesn't start with the number of images, but with {' '.join(first)[:40]!r}")
        count = int(first[0])
        names = next(rows, (2, []))[1]
    for name in wanted:
        if name not in names:
            raise DataError(f"{path} has no attribute {name}.{suggestion(name, names[:100])}")
        if names.count(name) > 1:
            raise DataError(f"{path} has the attribute {name} more than once")
    columns = [1 + names.index(name) for name in wanted]
    labels: dict[str, tuple[int, int]] = {}
    for number, row in rows:
        if len(row) != 1 + len(names):
            raise DataError(f"{path}, line {number}: {len(row)} fields, not {1 + len(names)}")
        values = [row[column] for column in columns]
        if not {"1", "-1"}.issuperset(values):
            raise DataError(f"{path}, line {number}: attributes are 1 or -1, not {' and '.join(values)}")
        if row[0] in labels:
            raise DataError(f"{path}, line {number}: {row[0]} comes twice")
        labels[row[0]] = (int(values[0] == "1"), int(values[1] == "1"))
    if count is not None and len(labels) != count:
        raise DataError(f"{path} has {len(labels)} images, though it starts with {count}")
    return labels


def _partition(path: Path) -> dict[str, int]:
    """File → number of its split."""
    partition: dict[str, int] = {}
    numbers = [str(number) for number in range(len(SPLITS))]
    for number, row in islice(_rows(path), 1 if path.suffix == ".csv" else 0, None):
        if len(row) != 2 or row[1] not in numbers:
            raise DataError(f"{path}, line {number}: a file and its split, 0, 1 or 2, not {' '.join(row)[:40]!r}")
        if row[0] in partition:
            raise DataError(f"{path}, line {number}: {row[0]} comes twice")
        partition[row[0]] = int(row[1])
    return partition
