"""The lock of a folder, which knows when it isn't the folder's any more."""

import os
from pathlib import Path

from filelock import FileLock, Timeout


class Lock:
    """Keeps other processes out of a folder, for as long as the file under its name is the one that is held.

    A lock holds an open file. Where somebody removes the file, or moves or replaces the folder around it, the file
    lives on without a name, and another process locks a new one: `held` says so.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path)
        self._own: int | None = None

    def acquire(self) -> bool:
        """Whether it could be had, at once; if not, another process holds it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            self._own = os.open(self.path, os.O_RDONLY)
        except BaseException:
            self._lock.release()
            raise
        return True

    @property
    def taken(self) -> bool:
        """Whether this process has it, wherever its file may be now."""
        return self._own is not None

    def held(self) -> bool:
        """Whether the file under the lock's name is still the one that this process locked."""
        if self._own is None:
            return False
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(os.fstat(self._own), there)

    def release(self) -> None:
        """Release the lock, so that other processes can have it."""
        if self._own is not None:
            os.close(self._own)
            self._own = None
        self._lock.release()
