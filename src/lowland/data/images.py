"""Image files, decoded in parallel and resized, then kept in the cache as one uint8 array a split.

A cached array is named by the names, sizes and times of its files: where one of them changes, it is made anew. It gets
its name only when it is whole, and is memory-mapped from then on.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from filelock import FileLock

from lowland.data.checks import some
from lowland.data.progress import counting
from lowland.data.split import Split
from lowland.errors import DataError, SettingError

#: What counts as an image in a folder, in small or capital letters.
EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

#: The part of an image that is resized: all of it, the square in its centre, or the middle 7/8 of both sides.
Crop = Literal["whole", "square", "middle"]

_AT_ONCE = 512  # images in memory: decoding runs ahead of writing by no more


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
        _report(folder, _decode_all(folder, files, 1, "whole", nowhere, advance), listed)


def _report(folder: Path, broken: Sequence[str], listed: Mapping[str, Listed]) -> None:
    if broken:
        total = sum(len(part.files) for part in listed.values())
        raise DataError(f"{folder}: {len(broken)} of {total} images can't be read: {some(broken)}. Replace them.")


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


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached array; None if there is none, or it hasn't the form that it was written in."""
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except (OSError, ValueError, EOFError, SyntaxError):
        return None
    sound = array.shape == shape and array.dtype == np.uint8 and path.stat().st_size == array.offset + array.nbytes
    return array if sound else None


def _make(
    path: Path, shape: tuple[int, ...], folder: Path, files: Sequence[str], crop: Crop, title: str, progress: bool
) -> list[str]:
    """Write the array of ``files`` and delete the one it replaces; or only say which of them can't be read."""
    part = path.with_suffix(".part")
    with open(part, "wb") as out, counting(title, len(files), progress) as advance:
        np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
        broken = _decode_all(folder, files, shape[-1], crop, out, advance)
        out.flush()
        os.fsync(out.fileno())
    if broken:
        part.unlink()
        return broken
    os.replace(part, path)
    for other in path.parent.iterdir():
        if other != path and other.suffix in (".npy", ".part"):
            other.unlink()
    return []


def _decode_all(
    folder: Path, files: Sequence[str], size: int, crop: Crop, out: IO[bytes], advance: Callable[[], None]
) -> list[str]:
    """Write the images in order, up to the first that can't be read, and name all of those with the reason."""
    broken: list[str] = []
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside the interpreter's lock
        for start in range(0, len(files), _AT_ONCE):
            chunk = files[start : start + _AT_ONCE]
            results = pool.map(lambda file: _decode(folder, file, size, crop), chunk)
            for file, result in zip(chunk, results, strict=True):
                if isinstance(result, str):
                    broken.append(f"{file} ({result})")
                elif not broken:
                    out.write(result)
                advance()
    return broken


def _decode(folder: Path, file: str, size: int, crop: Crop) -> bytes | str:
    """The planes of one image; or in words why it can't be read."""
    from PIL import Image  # here, because most datasets have no image files

    try:
        with Image.open(os.path.join(folder, file)) as image:
            pixels = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=_box(*image.size, crop))
    except Exception as error:  # Pillow lets through whatever the bytes lead to
        if isinstance(error, Image.UnidentifiedImageError):
            return "no image"
        return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return np.asarray(pixels).transpose(2, 0, 1).tobytes()


def _box(width: int, height: int, crop: Crop) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge of the part that is kept, in pixels."""
    side = min(width, height)
    kept = {"whole": (width, height), "square": (side, side), "middle": (width * 7 / 8, height * 7 / 8)}[crop]
    left, upper = (width - kept[0]) / 2, (height - kept[1]) / 2
    return left, upper, left + kept[0], upper + kept[1]


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
