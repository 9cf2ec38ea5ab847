"""Atomic writes, and opening of regular files only."""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a temporary file beside ``path``, then rename it; on failure ``path`` is unchanged."""
    part = path.with_name(path.name + ".part")
    try:
        with naming(path), part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if sys.platform == "win32":
        return  # Windows can't open a folder
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add ``path`` to an OSError from a write: for a full disk, for example, it names no file by itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Raise an `OSError` if ``path`` exists but is no regular file: a folder, a pipe, a device, a socket.

    Opening one of those may block, give endless bytes, or have side effects.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    _refuse(mode, path)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open ``path`` to read its bytes; raises `OSError` if it is no regular file (see `refuse_special`)."""
    refuse_special(path)
    # A pipe that has replaced the file since the check must not block either.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _refuse(os.fstat(descriptor).st_mode, path)
        return BufferedReader(FileIO(descriptor, "rb"))
    except BaseException:
        os.close(descriptor)
        raise


def _refuse(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, no file", os.fspath(path)
        )
