"""Which datasets are on this machine, and whether their files are intact."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lowland.data import celeba, domains, files, registry, waterbirds
from lowland.data.download import hold_against_record
from lowland.data.files import data_root, find, first
from lowland.data.formats import collected, read
from lowland.data.images import check_images
from lowland.errors import DataError


@dataclass(frozen=True)
class Status:
    """One dataset on this machine.

    ``path`` is its folder, None for one that comes with scikit-learn; ``bytes`` what its files take there, None for
    image files, which are too many to count. ``fetchable`` says whether it can be downloaded.
    """

    name: str
    state: Literal["ready", "missing", "incomplete"]
    path: Path | None
    bytes: int | None
    licence: str
    fetchable: bool = True


def status(root: str | Path | None = None) -> list[Status]:
    """Every dataset and whether its files are there, from their names and sizes alone.

    Raises `DataError` if the data root is not a folder.
    """
    return [_status(source, data_root(root) / source.name) for source in registry.DATASETS.values()]


def _status(source: registry.Source, folder: Path) -> Status:
    state: Literal["ready", "missing", "incomplete"]
    if source.format == "scikit-learn":
        return Status(source.name, "ready", None, 0, source.licence)
    if source.format == "images":
        places = [first(places, folder) for places in source.placed]
        state = "ready" if all(places) else "incomplete" if any(places) else "missing"
        return Status(source.name, state, folder, None, source.licence, fetchable=False)
    found = {part: find(part, folder) for part in source.parts}
    files = {path for path in found.values() if path is not None}
    state = "incomplete" if files else "missing"
    if all(_whole(part, path) for part, path in found.items()):
        state = "ready"
    taken = sum(map(_bytes, files))
    return Status(source.name, state, folder, taken, source.licence)


def _whole(part: registry.Part, path: Path | None) -> bool:
    """Whether the file has the part's size, or is compressed and not empty: all one can tell unread."""
    size = 0 if path is None else _bytes(path)
    return size == part.size or (size > 0 and path is not None and path.name == part.packed)


def _bytes(path: Path) -> int:
    """Of a file; 0 for what is none, or can't be seen."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def verify(name: str, root: str | Path | None = None) -> list[str]:
    """Read all of dataset ``name`` and return every problem found, each naming its file; [] if it is sound.

    Checksums are held against those files alone that were downloaded here; image files are all decoded. Raises
    `DataError` only for an unknown name or a data root that is not a folder.
    """
    source = registry.source(name)
    folder = data_root(root) / name
    if source.format == "images":
        return _verify_images(name, folder)
    _, problems = read(source, folder)
    for path in files.found(source, folder):
        with collected(problems):
            hold_against_record(path)
    return [str(problem) for problem in problems]


def _verify_images(name: str, folder: Path) -> list[str]:
    problems: list[DataError] = []
    groups: list[str] = []
    with collected(problems):
        if name in domains.DOMAIN_FOLDERS:
            listed, _ = domains.listing(name, folder)
        else:
            listing = {"celeba": celeba.listing, "waterbirds": waterbirds.listing}[name](folder)
            folder, listed, groups = listing.folder, listing.splits, listing.problems()
        check_images(folder, listed)
    return [*map(str, problems), *groups]
