"""Image files as pixels: decoded in parallel, converted and resized.

Image files aren't trusted. Only the five formats of `FORMATS` are opened, because Pillow starts other programs for some
others. No more memory is used than an image of `MOST_PIXELS` needs.
"""

import ctypes
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Lock
from typing import IO, Any, Literal

import numpy as np

from lowland.files import open_regular

#: The formats that are read, as Pillow calls them.
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")

#: Of one image: a little more than 11,000 by 8,000.
MOST_PIXELS = 90_000_000

#: The part of an image that is resized: all of it, the square in its centre, or the middle 7/8 of both sides.
Crop = Literal["whole", "square", "middle"]

_AT_ONCE = 512  # images in memory: decoding runs ahead of writing by no more
_MOST_BYTES = 1 << 30  # of a file
_LARGE_PIXELS, _LARGE_BYTES = 1 << 24, 1 << 26  # from here on an image is decoded with no other large one beside
_large = Lock()


def decode_all(
    folder: Path, files: Sequence[str], size: int, crop: Crop, out: IO[bytes], advance: Callable[[], None]
) -> list[str]:
    """Write the images in order, up to the first that can't be read, and name all of those with the reason.

    Args:
        folder: that the files are relative to.
        files: of the images.
        size: height and width to resize them to, in pixels.
        crop: what of each is resized, bilinearly.
        out: gets uint8 ``(3, size, size)`` of each.
        advance: called after each.
    """
    broken: list[str] = []
    with warnings.catch_warnings(), _silent_libtiff():
        warnings.simplefilter("ignore")  # Pillow's, of what it passes over, would stand beside our own line
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


@contextmanager
def _silent_libtiff() -> Iterator[None]:
    """libtiff, inside of Pillow, prints what is wrong with a file on stderr by itself; Pillow's exception is enough."""
    from PIL import Image

    setters = []
    with suppress(OSError, AttributeError):  # a Pillow that has it built in, or has none: it can't be asked then
        library = ctypes.CDLL(Image.core.__file__)
        setters = [library.TIFFSetErrorHandler, library.TIFFSetWarningHandler]
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    before = [setter(None) for setter in setters]
    try:
        yield
    finally:
        for setter, handler in zip(setters, before, strict=True):
            setter(handler)


def _decode(folder: Path, file: str, size: int, crop: Crop) -> bytes | str:
    """The planes of one image; or in words why it can't be read."""
    from PIL import Image  # here, because most datasets have no image files

    try:
        with open_regular(os.path.join(folder, file)) as content:
            length = os.fstat(content.fileno()).st_size
            if length > _MOST_BYTES:
                return f"a file of {length} bytes, too large"
            with _large if length > _LARGE_BYTES else nullcontext():
                with Image.open(content, formats=FORMATS) as image:
                    width, height = image.size
                    if width * height > MOST_PIXELS:
                        return f"{width} × {height} pixels, too many"
                    large = width * height > _LARGE_PIXELS and length <= _LARGE_BYTES
                    with _large if large else nullcontext():
                        pixels = _square(image, size, crop)
    except Exception as error:  # Pillow lets through whatever the bytes lead to
        if isinstance(error, Image.UnidentifiedImageError):
            return f"no image, or none of {', '.join(FORMATS)}"
        if isinstance(error, Image.DecompressionBombError):
            return f"more than {MOST_PIXELS} pixels, too many"
        return _line(error)
    return np.asarray(pixels).transpose(2, 0, 1).tobytes()


def _square(image: Any, size: int, crop: Crop) -> Any:
    from PIL import Image

    box = _box(image.width, image.height, crop)
    return image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box)


def _line(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return text if text.isprintable() else ascii(text)


def _box(width: int, height: int, crop: Crop) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge of the part that is kept, in pixels."""
    side = min(width, height)
    kept = {"whole": (width, height), "square": (side, side), "middle": (width * 7 / 8, height * 7 / 8)}[crop]
    left, upper = (width - kept[0]) / 2, (height - kept[1]) / 2
    return left, upper, left + kept[0], upper + kept[1]
