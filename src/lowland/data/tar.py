"""Limits for reading tar files: `tarfile` itself trusts the sizes in headers."""

import tarfile
from gzip import GzipFile
from typing import Self

_MOST_HEADER = 1 << 20  # bytes of a long name or of extended attributes
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_EMPTY_READS = 16  # most reads at the end: a reader that skips missing bytes would never stop


class Member(tarfile.TarInfo):
    """A member whose header is refused, with `tarfile.ReadError`, if it is very large or sparse."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header, as `tarfile.TarInfo.frombuf` does, and refuse it if it is out of bounds."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENDED and info.size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"{info.name} is sparse, which no publisher's archive is")
        return info


class Bounded:
    """A stream of which no more than ``most`` bytes can be read: then it raises `tarfile.ReadError`."""

    def __init__(self, stream: GzipFile, most: int):
        self._stream, self._most = stream, most
        self._read = self._empty = 0

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, none at the end; `EOFError` for who doesn't see the end."""
        data = self._stream.read(size)
        self._read += len(data)
        if self._read > self._most:
            raise tarfile.ReadError(f"it holds more than {self._most} bytes unpacked")
        if not data:
            self._empty += 1
            if self._empty > _EMPTY_READS:
                raise EOFError("it ends in the middle of a member")
        return data
