"""The data root, and reading the bytes of a dataset's parts from files, packed or not."""

import errno
import gzip
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, BinaryIO, cast

from platformdirs import user_cache_path

from lowland.data.registry import Part, Source
from lowland.data.tar import Bounded, Member
from lowland.errors import DataError
from lowland.files import open_regular

_MOST_TABLE = 1 << 28  # bytes; CelebA's has 25 million
_SLACK = 1 << 24  # bytes that a compressed file may have beside twice its parts

_NO_FILE = (errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO)


class UnreadableError(DataError):
    """A file can't be read (permissions, a failing disk); whether it is damaged is unknown."""


def data_root(root: str | Path | None = None) -> Path:
    """The folder with one subfolder for each dataset: ``root``, else ``$LOWLAND_DATA``, else the cache folder.

    It need not exist. Raises `DataError` if the path is no folder or has the ``~`` of an unknown user.
    """
    chosen = root or os.environ.get("LOWLAND_DATA")
    try:
        path = Path(chosen or user_cache_path("lowland") / "data").expanduser().absolute()
    except RuntimeError as error:
        where = str(chosen) if chosen else "There is no home directory to keep datasets in"
        raise DataError(
            f"{where}: {str(error).rstrip('.')}. Point $LOWLAND_DATA at the folder of the datasets."
        ) from error
    if "\0" in str(path):
        raise DataError(f"{str(chosen)!r} is no path. Point $LOWLAND_DATA at the folder of the datasets.")
    if os.path.exists(path) and not path.is_dir():
        raise DataError(f"{path} is not a folder. Point $LOWLAND_DATA at the folder that holds the datasets.")
    return path


def find(part: Part, folder: Path) -> Path | None:
    """The file under ``folder`` that holds ``part``, unpacked before packed; None if there is none."""
    return first(part.places, folder)


def found(source: Source, folder: Path) -> list[Path]:
    """The files under ``folder`` that hold parts of ``source``, each once."""
    places = (find(part, folder) for part in source.parts)
    return list(dict.fromkeys(path for path in places if path is not None))


def first(places: Iterable[str], folder: Path) -> Path | None:
    """The first of ``places`` under ``folder`` where something is, readable or not; None if there is nothing."""
    return next((path for path in (folder / place for place in places) if _there(path)), None)


def _there(path: Path) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        # A folder that we may not enter, a link that leads to itself: reading says what it is.
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    return True


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
    """Turn every error of reading ``path``, by the disk or by a decompressor, into a `DataError`.

    If the system doesn't give the bytes, it is an `UnreadableError`.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        code = getattr(error, "errno", None)
        kind = DataError if code is None or code in _NO_FILE else UnreadableError
        raise kind(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a table, each behind its number, from 1. Bytes that aren't UTF-8 are replaced.

    Raises `DataError` if the file can't be read, or is far too large for a table.
    """
    with readable(path), open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > _MOST_TABLE:
            raise DataError(f"{path} is too large for a table: {size} bytes")
        yield from enumerate(TextIOWrapper(file, encoding="utf-8-sig", errors="replace"), 1)


def unpack(path: Path, parts: Iterable[Part]) -> Iterator[tuple[Part, bytes]]:
    """The bytes of each of ``parts`` that ``path`` holds: a ``.tar.gz``, a ``.gz`` or a plain file.

    Of a part at most one byte beyond its size is read, which shows that it is too long; of an archive at most about
    twice the size of its parts. Raises `DataError` for what is no file or can't be read or decompressed, or an archive
    without one of the parts.
    """
    parts = list(parts)
    most = 2 * sum(part.size for part in parts) + _SLACK
    with readable(path), open_regular(path) as file:
        packed = path.suffix == ".gz"
        if packed and (size := os.fstat(file.fileno()).st_size) > most:
            raise DataError(f"{path} is too large: {size} bytes compressed, for {sum(part.size for part in parts)}")
        if path.name.endswith(".tar.gz"):
            yield from _members(path, file, {part.member: part for part in parts}, most)
        else:
            (part,) = parts
            with gzip.open(file) if packed else file as content:
                yield part, content.read(part.size + 1)


def _members(path: Path, file: BinaryIO, wanted: dict[str, Part], most: int) -> Iterator[tuple[Part, bytes]]:
    with gzip.open(file) as unzipped:
        stream = Bounded(unzipped, most)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=Member) as archive:
                for member in archive:
                    if member.size > most:
                        raise tarfile.ReadError(f"{member.name} has {member.size} bytes, more than all of it may hold")
                    if member.isfile() and member.name in wanted:
                        if member.issparse():
                            raise tarfile.ReadError(f"{member.name} is sparse, which no publisher's archive is")
                        part = wanted.pop(member.name)
                        yield part, cast(IO[bytes], archive.extractfile(member)).read(part.size + 1)
        except (ValueError, ArithmeticError, LookupError, RecursionError) as error:  # of headers that make no sense
            raise tarfile.ReadError(f"its headers make no sense: {error}") from error
        # The checksum stands at the very end, behind the padding where the archive stops reading.
        while stream.read(1 << 20):
            pass
    if wanted:
        raise DataError(f"{path} has no {', '.join(wanted)} inside")
