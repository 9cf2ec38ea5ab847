"""Image files, decoded and resized, then kept in the cache as one uint8 array a split.

A cached array is named by the names, sizes and times of its files: where one of them changes, it is made anew. It gets
its name only when it is whole, and is memory-mapped from then on.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from lowland.data.decode import Crop, decode_all
from lowland.data.split import Split
from lowland.errors import DataError, SettingError
from lowland.files import open_regular
from lowland.progress import bar

#: What counts as an image in a folder, in small or capital letters.
EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, eq=False)
class Listed:
    """The images of one split and their labels, not yet read; ``files`` are relative to the dataset's folder."""

    files: list[str]
    targets: list[int]
    attributes: list[int] | None = None


def read_images(
    folder: Path, cache: Path, listed: Mapping[str, Listed], size: int, crop: Crop, progress: bool = True
) -> dict[str, Split]:
    """The images of every split, from the cache or decoded into it.

    Args:
        folder: that the files are relative to.
        cache: folder for the arrays; it need not exist.
        listed: by the name of the split, none of them empty.
        size: height and width, in pixels.
        crop: what of each image is resized, bilinearly, without regard to the ratio of its sides. Other than RGB
            images are converted.
        progress: whether a bar is shown on stderr, where it is a terminal.

    The images are JPEG, PNG, BMP, TIFF or WebP, by their content, of up to `lowland.data.decode.MOST_PIXELS`; other
    formats count as what can't be read.

    Returns:
        By the name of the split, inputs uint8 ``(n, 3, size, size)``, memory-mapped: what is written to them stays
        in memory.

    Raises:
        DataError: if images are missing or can't be read, or the cache can't be written.
        SettingError: for a size below 1.
    """
    if size < 1:
        raise SettingError(f"Images have at least 1 pixel a side, not {size}.")
    stamps = _stamps(folder, listed)
    splits, broken = {}, list[str]()
    for name, part in listed.items():
        key = json.dumps([size, crop, stamps[name]])
        path = cache / name / str(size) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        shape = (len(part.files), 3, size, size)
        array = _mapped(path, shape)
        if array is None:
            with _alone(path.parent):
                array = _mapped(path, shape)  # perhaps another process has made it meanwhile
                if array is None:
                    broken += _make(path, shape, folder, part.files, crop, f"{folder.name} {name}", progress)
                    array = _mapped(path, shape)
        if array is not None:
            attributes = None if part.attributes is None else torch.tensor(part.attributes)
            splits[name] = Split(torch.from_numpy(array), torch.tensor(part.targets), attributes=attributes)
    _report(folder, broken, listed)
    return splits


def check_images(folder: Path, listed: Mapping[str, Listed], progress: bool = True) -> None:
    """Decode every image; a `DataError` if some are missing or can't be read."""
    _stamps(folder, listed)
    files = [file for part in listed.values() for file in part.files]
    with open(os.devnull, "wb") as nowhere, counting(folder.name, len(files), progress) as advance:
        _report(folder, decode_all(folder, files, 1, "whole", nowhere, advance), listed)


def _report(folder: Path, broken: Sequence[str], listed: Mapping[str, Listed]) -> None:
    if broken:
        total = sum(len(part.files) for part in listed.values())
        raise DataError(
            f"{folder}: {len(broken)} of {total} images can't be read: {some(broken)}. Replace those that "
            "are damaged, and make the others readable."
        )


def _stamps(folder: Path, listed: Mapping[str, Listed]) -> dict[str, list[tuple[str, int, int]]]:
    """Name, bytes and time of every file; a `DataError` if some are missing."""
    stamps: dict[str, list[tuple[str, int, int]]] = {}
    missing = []
    for name, part in listed.items():
        stamps[name] = []
        for file in part.files:
            try:
                status = os.stat(os.path.join(folder, file))
            except OSError:
                missing.append(file)
            else:
                stamps[name].append((file, status.st_size, status.st_mtime_ns))
    if missing:
        total = len(missing) + sum(map(len, stamps.values()))
        raise DataError(f"{folder}: {len(missing)} of {total} images are missing: {some(missing)}. Place them there.")
    return stamps


def _header(shape: tuple[int, ...]) -> bytes:
    """What an array of this shape starts with in the cache."""
    start = BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return start.getvalue()


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached array; None if there is none, or it hasn't the very form that it was written in.

    The header is compared and not read: whatever stands there instead is nothing to us.
    """
    header = _header(shape)
    try:
        with open_regular(path) as file:
            whole = os.fstat(file.fileno()).st_size == len(header) + math.prod(shape)
            if not whole or file.read(len(header)) != header:
                return None
            return np.memmap(file, np.uint8, mode="c", offset=len(header), shape=shape)
    except OSError:
        return None


def _make(
    path: Path, shape: tuple[int, ...], folder: Path, files: Sequence[str], crop: Crop, title: str, progress: bool
) -> list[str]:
    """Write the array of ``files`` and delete the one it replaces; or only say which of them can't be read."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)  # whatever it is, we write a file of our own
    try:
        with open(part, "xb") as out, counting(title, len(files), progress) as advance:
            out.write(_header(shape))
            broken = decode_all(folder, files, shape[-1], crop, out, advance)
            out.flush()
            os.fsync(out.fileno())
        if not broken:
            os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):  # from a full disk on, too: it makes room
            part.unlink()
    if broken:
        return broken
    for other in path.parent.iterdir():
        if other != path and other.suffix in (".npy", ".part"):
            other.unlink()
    return []


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make ``folder`` and keep other processes out of it; a `DataError` if it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            yield
    except OSError as error:
        raise DataError(
            f"{folder} can't be written: {error.strerror or error}. Decoded images are kept there: make room, or point "
            "$LOWLAND_DATA at another folder."
        ) from error


@contextmanager
def counting(description: str, total: int, show: bool) -> Iterator[Callable[[], None]]:
    """A bar on stderr, or lines, that a call moves on by one of ``total``; nothing unless ``show``."""
    done = 0
    with bar(
        "{task.description}", "bar", "count", "left",
        describe=lambda: f"{description}: {done} of {total} images", show=show,
    ) as (drawn, said):  # fmt: skip
        task = drawn.add_task(description, total=total)

        def advance() -> None:
            nonlocal done
            done += 1
            drawn.advance(task)
            said.check()

        yield advance


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first ``limit`` of ``names``, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:limit]) + more
