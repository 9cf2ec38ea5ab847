"""Fetch what is missing: resumed, verified, and put in place in one step.

A download grows in ``FILE.part``, so that a broken one goes on where it stopped. It gets its own name only
when its checksum is right; ``FILE.md5``, in the form ``md5sum -c`` reads, then says that it came from here.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock

from lowland.data import registry
from lowland.data.files import find, placed
from lowland.data.progress import Advance, bars
from lowland.data.registry import Download
from lowland.data.root import data_root
from lowland.errors import DataError

CONNECT = 25.0  # seconds to answer, shared out among the mirrors of a file
STALL = 30.0  # seconds without a byte in mid-download
ATTEMPTS = 5  # at one mirror, as long as each brings bytes


class _FailedError(Exception):
    """A mirror did not give us the file; the text says why."""


def fetch(name: str, root: str | Path | None = None, progress: bool = True) -> list[Path]:
    """Download the files of dataset ``name`` that are missing under the data root, and return their paths.

    ``progress`` shows a bar on stderr if that is a terminal. Two processes may fetch the same dataset at
    once: the second waits and finds the files there. Without a network it gives up within 30 seconds.
    Raises `DataError` for an unknown name, if no mirror gives a file with the right checksum, if the folder
    can't be written, or for a dataset of image files, which have to be placed by hand, if they aren't there.
    """
    source = registry.source(name)
    folder = data_root(root) / name

    def missing() -> list[Download]:
        places = {place for part in source.parts if find(part, folder) is None for place in part.places}
        return [download for download in source.downloads if download.filename in places]

    placed(source, folder)
    # Without the lock first, so that a complete dataset in a folder we may not write to is no error.
    if not missing():
        return []
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"), bars(progress) as advance:
            return [_download(download, folder / download.filename, advance) for download in missing()]


def record(path: Path) -> Path:
    """The small file beside ``path`` that says what was downloaded: its MD5 and its name."""
    return path.with_name(f"{path.name}.md5")


def md5(path: Path) -> str:
    """The MD5 of a file in hexadecimal; raises `OSError` if it can't be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a full disk, a forbidden folder and the like into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} can't be written: {error.strerror or error}. Make room there, or point $LOWLAND_DATA at "
            "another folder, and run the command again: it goes on where it stopped."
        ) from error


def _download(download: Download, target: Path, advance: Advance) -> Path:
    part = target.with_name(f"{target.name}.part")
    reasons = []
    with _writing(part):
        for url in download.urls:
            try:
                _from_mirror(url, download, part, advance)
            except _FailedError as error:
                reasons.append(f"{urlsplit(url).netloc}: {error}")
            else:
                os.replace(part, target)
                record(target).write_text(f"{download.md5}  {target.name}\n")
                return target
    raise DataError(
        f"{target} is missing and could not be fetched ({'; '.join(reasons)}). Put it there yourself, or run "
        f"again with a network: lowland data fetch {target.parent.name}. "
        "$LOWLAND_DATA says where datasets lie; long2024/digits needs no download."
    )


def _from_mirror(url: str, download: Download, part: Path, advance: Advance) -> None:
    """Make ``part`` complete and right; again as long as bytes arrive, or from nothing if it held no good."""
    for left in reversed(range(ATTEMPTS)):
        before = _size(part)
        try:
            if before < download.size:
                _receive(url, download, part, advance)
            _check(download, part)
            return
        except _FailedError:
            after = _size(part)
            if not left or not (after > before or after == 0 < before):
                raise


def _receive(url: str, download: Download, part: Path, advance: Advance) -> None:
    """Append to ``part`` what it lacks, or start it anew where the server gives whole files only."""
    received = _size(part)
    headers = {"User-Agent": "lowland"} | ({"Range": f"bytes={received}-"} if received else {})
    with _connect(Request(url, headers=headers), CONNECT / len(download.urls)) as response:
        if response.status == 206:
            extent = response.headers.get("Content-Range", "")
            fits = extent.startswith(f"bytes {received}-") and extent.endswith((f"/{download.size}", "/*"))
        else:
            received = 0
            extent = response.headers.get("Content-Length", str(download.size))
            fits = extent == str(download.size)
        if not fits:
            raise _FailedError(f"has another file: {extent} where {download.size} bytes were expected")
        with open(part, "ab" if received else "wb") as file:
            while received <= download.size and (chunk := _chunk(response)):
                received += file.write(chunk)
                advance(download, received)
            file.flush()
            os.fsync(file.fileno())
    if received < download.size:
        raise _FailedError(f"the connection broke after {received} of {download.size} bytes")


def _connect(request: Request, seconds: float) -> HTTPResponse:
    """Open ``request`` in a thread of its own, because looking up a name has no timeout."""
    answer: Future[HTTPResponse] = Future()

    def work() -> None:
        try:
            answer.set_result(urlopen(request, timeout=STALL))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    try:
        return answer.result(seconds)
    except HTTPError as error:
        error.close()
        raise _FailedError(f"HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise _FailedError("no answer in time") from error
    except URLError as error:
        raise _FailedError(_text(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise _FailedError(_text(error)) from error


def _chunk(response: HTTPResponse) -> bytes:
    try:
        return response.read1(1 << 16)
    except (OSError, HTTPException) as error:
        raise _FailedError(f"the connection broke: {_text(error)}") from error


def _text(reason: object) -> str:
    """What went wrong in one line, without an error number."""
    return " ".join(str(getattr(reason, "strerror", None) or reason or type(reason).__name__).split())


def _check(download: Download, part: Path) -> None:
    found = md5(part)
    if found != download.md5:
        part.unlink()
        raise _FailedError(f"what arrived has MD5 {found}, not {download.md5}, and was deleted")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
