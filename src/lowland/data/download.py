"""Downloads of missing files: resumed, verified, and put in place atomically.

A download is written to ``FILE.part``, so that a broken one resumes where it stopped. It is renamed only when its
checksum is right. ``FILE.md5``, in the format of ``md5sum -c``, records that it was downloaded here.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from lowland.data import registry
from lowland.data.files import data_root, find, placed, readable
from lowland.data.mirror import FailedError, answer_to, chunk, plain
from lowland.data.registry import Download, Source
from lowland.errors import DataError
from lowland.files import open_regular, refuse_special, write_atomically
from lowland.progress import bar

CONNECT = 25.0  # seconds to answer, shared out among the mirrors of a file
STALL = 30.0  # seconds without a byte in mid-download
SLOWEST = 1024  # bytes a second, over a time of STALL: slower mirrors are given up
ATTEMPTS = 5  # at one mirror, as long as each brings bytes; those that bring a hundredth of the file don't count

#: Called with a download and how many of its bytes are there.
Advance = Callable[[Download, int], None]


def fetch(name: str, root: str | Path | None = None, progress: bool = True) -> list[Path]:
    """Download the files of dataset ``name`` that are missing under the data root, and return their paths.

    ``progress`` shows a bar on stderr if that is a terminal. Two processes may fetch the same dataset at
    once: the second waits and finds the files there. Without a network it gives up within 30 seconds; mirrors that
    bring less than a kilobyte a second are given up for the next. Redirects are followed to http and https alone.
    Raises `DataError` for an unknown name, if no mirror gives a file with the right checksum, if the folder
    can't be written, or for a dataset of image files, which have to be placed by hand, if they aren't there.
    """
    source = registry.source(name)
    folder = data_root(root) / name

    def missing() -> list[Download]:
        places = {place for part in source.parts if find(part, folder) is None for place in part.places}
        return [download for download in source.downloads if download.filename in places]

    placed(source, folder)
    _mend_records(source, folder)
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


def recorded(path: Path) -> str | None:
    """The MD5 that `record` says ``path`` was downloaded with; None if it was not.

    Raises:
        OSError: if the record can't be read.
        DataError: if it holds no MD5.
    """
    try:
        with open_regular(record(path)) as file:
            said = re.match(rb"[0-9a-f]{32}(?= )", file.read(100))
    except FileNotFoundError:
        return None
    if said is None:
        raise DataError(f"{record(path)} is damaged. Run: lowland data fetch {path.parent.name}, which writes it anew")
    return said[0].decode()


def hold_against_record(path: Path) -> None:
    """Raise a `DataError` if the file was downloaded here, and has another checksum now."""
    with readable(record(path)):
        wanted = recorded(path)
    if wanted is None:
        return
    with readable(path):
        found = md5(path)
    if found != wanted:
        raise DataError(
            f"{path} is not what was downloaded: {record(path).name} has another MD5. Remove both and run: lowland "
            f"data fetch {path.parent.name}; or that one alone, if you put another copy there"
        )


def _mend_records(source: Source, folder: Path) -> None:
    """Write damaged records anew, if the files are those that would be fetched; a `DataError` if not."""
    for download in source.downloads:
        path = folder / download.filename
        if not os.path.exists(path):
            continue  # it comes with a new one
        try:
            recorded(path)
        except OSError:
            continue  # reading the dataset needs none
        except DataError as error:
            with readable(path):
                found = md5(path)
            if found != download.md5:
                raise DataError(
                    f"{record(path)} is damaged, and {path} is not what would be fetched. Remove both and run: lowland "
                    f"data fetch {source.name}; or that one alone, if you put another copy there"
                ) from error
            with _writing(record(path)):
                _write_record(download, path)


def _write_record(download: Download, path: Path) -> None:
    write_atomically(record(path), f"{download.md5}  {path.name}\n".encode())


def md5(path: Path) -> str:
    """The MD5 of a file in hexadecimal; raises `OSError` if it can't be read."""
    with open_regular(path) as file:
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
        refuse_special(part)
        for url in download.urls:
            try:
                _from_mirror(url, download, part, advance)
            except FailedError as error:
                reasons.append(f"{urlsplit(url).netloc}: {error}")
            else:
                _write_record(download, target)  # first: a download without its record would never be held against it
                os.replace(part, target)
                return target
    raise DataError(
        f"{target} is missing and could not be fetched ({'; '.join(reasons)}). Put it there yourself, or run "
        f"again with a network: lowland data fetch {target.parent.name}. "
        "$LOWLAND_DATA says where datasets lie; long2024/digits needs no download."
    )


def _from_mirror(url: str, download: Download, part: Path, advance: Advance) -> None:
    """Make ``part`` complete and right; again as long as bytes arrive, or from nothing if it held no good."""
    left = ATTEMPTS
    while True:
        before = _size(part)
        try:
            if before < download.size:
                _receive(url, download, part, advance)
            _check(download, part)
            return
        except FailedError as error:
            after = _size(part)
            if 100 * (after - before) < download.size:
                left -= 1
            if not left or error.final or not (error.brought or after == 0 < before):
                raise


def _receive(url: str, download: Download, part: Path, advance: Advance) -> None:
    """Append to ``part`` what it lacks; from its start where the server gives whole files only, and never shorter."""
    there = _size(part)
    headers = {"User-Agent": "lowland"} | ({"Range": f"bytes={there}-"} if there else {})
    with answer_to(url, headers, CONNECT / len(download.urls), STALL) as response:
        if response.status == 206:
            start, extent = there, response.headers.get("Content-Range", "")
            fits = extent.startswith(f"bytes {there}-") and extent.endswith((f"/{download.size}", "/*"))
        else:
            start, extent = 0, response.headers.get("Content-Length", str(download.size))
            fits = extent == str(download.size)
        if not fits:
            raise FailedError(f"has another file: {plain(extent)} where {download.size} bytes were expected")
        received, looked, since = start, start, monotonic()
        with open(part, "r+b" if there else "wb") as file:
            file.seek(start)
            try:
                while received <= download.size and (data := chunk(response)):
                    received += file.write(data)
                    advance(download, received)
                    if (took := monotonic() - since) > STALL:
                        if received - looked < SLOWEST * took:
                            raise FailedError(f"too slow: {received - looked} bytes in {took:.0f} s", final=True)
                        looked, since = received, monotonic()
            except FailedError as error:
                error.brought = received - start
                raise
            finally:
                file.flush()
                os.fsync(file.fileno())
    if received < download.size:
        broke = f"the connection broke after {received} of {download.size} bytes"
        raise FailedError(broke, brought=received - start)


def _check(download: Download, part: Path) -> None:
    found = md5(part)
    if found != download.md5:
        part.unlink()
        raise FailedError(f"what arrived has MD5 {found}, not {download.md5}, and was deleted")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def bars(show: bool) -> Iterator[Advance]:
    """A bar for each download on stderr; without a terminal a line now and then; nothing unless ``show``."""
    line = ["waiting for an answer"]
    with bar("{task.description}", "bar", "bytes", "left", describe=lambda: line[0], show=show) as (drawn, said):
        tasks: dict[Download, Any] = {}

        def advance(download: Download, received: int) -> None:
            if download not in tasks:
                tasks[download] = drawn.add_task(download.filename, total=download.size)
            drawn.update(tasks[download], completed=received)
            share = received / max(download.size, 1)
            line[0] = f"{download.filename}: {received / 1e6:.1f} of {download.size / 1e6:.1f} MB ({share:.0%})"
            said.check()

        yield advance
