"""From files on disk to the bytes of a dataset's parts, packed or not."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from lowland.data.registry import Part, Source
from lowland.errors import DataError


def find(part: Part, folder: Path) -> Path | None:
    """The file under ``folder`` that holds ``part``, unpacked before packed; None if there is none."""
    return first(part.places, folder)


def first(places: Iterable[str], folder: Path) -> Path | None:
    """The first of ``places`` under ``folder`` where something is; None if there is nothing."""
    candidates = (folder / place for place in places)
    return next((path for path in candidates if os.path.exists(path)), None)


def placed(source: Source, folder: Path) -> list[Path]:
    """Where each of ``source.placed`` lies under ``folder``; a `DataError` that names what is not there."""
    found = [first(places, folder) for places in source.placed]
    missing = [places[0] for places, path in zip(source.placed, found, strict=True) if path is None]
    if missing:
        raise DataError(
            f"{source.name} can't be fetched: place the publisher's files at {folder}; missing: {', '.join(missing)}"
        )
    return [path for path in found if path is not None]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever reading ``path`` raises, from the disk or from a decompressor, into a `DataError`."""
    try:
        yield
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def unpack(path: Path, parts: Iterable[Part]) -> Iterator[tuple[Part, bytes]]:
    """The bytes of each of ``parts`` that ``path`` holds: a ``.tar.gz``, a ``.gz`` or a plain file.

    At most one byte more than a part's size is read, enough to tell that there is too much. Raises
    `DataError` for a file that can't be read or decompressed, or an archive without one of the parts.
    """
    with readable(path):
        if path.name.endswith(".tar.gz"):
            yield from _members(path, {part.member: part for part in parts})
        else:
            with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
                (part,) = parts
                yield part, file.read(part.size + 1)


def _members(path: Path, wanted: dict[str, Part]) -> Iterator[tuple[Part, bytes]]:
    with gzip.open(path) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isfile() and member.name in wanted:
                    part = wanted.pop(member.name)
                    yield part, cast(IO[bytes], archive.extractfile(member)).read(part.size + 1)
        # The checksum stands at the very end, behind the padding where the archive stops reading.
        while stream.read(1 << 20):
            pass
    if wanted:
        raise DataError(f"{path} has no {', '.join(wanted)} inside")
