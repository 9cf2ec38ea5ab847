"""What `torch.save` wrote, read back: nothing in it is executed, and what has changed since is noticed."""

import os
import warnings
import zipfile
from io import BytesIO
from typing import Any

import torch

from lowland.files import open_regular

_FOLDER = 0x10  # among the attributes of a file in an archive


def read_saved(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Any:
    """The tensors and plain values in the file ``path``, the tensors on ``device``.

    The checksums that files of torch 1.6 and later carry are verified, which torch itself passes over.

    Raises:
        OSError: if the file can't be read, or is no regular file.
        MemoryError: if it doesn't fit into memory.
        ValueError: if it is damaged, or holds objects of other kinds.
    """
    with open_regular(path) as file:
        content = BytesIO(file.read())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of old formats and other kinds of archives
            _verify(content)
            return torch.load(content, map_location=device, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch lets through whatever the bytes lead to
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(reason) from error


def _verify(content: BytesIO) -> None:
    """Raise an exception if a part of the archive isn't what was written."""
    if zipfile.is_zipfile(content):
        with zipfile.ZipFile(content) as archive:
            parts = archive.infolist()
            # torch compresses nothing: parts that grow, or lie on top of each other, are made to fill the memory.
            if sum(part.file_size for part in parts) > len(content.getbuffer()):
                raise zipfile.BadZipFile("its parts are larger than the file")
            # What says that it is a folder torch reads as nothing, and gives whatever the memory held.
            if any(part.is_dir() or part.external_attr & _FOLDER for part in parts):
                raise zipfile.BadZipFile("one of its parts says that it is a folder")
            if len({part.filename for part in parts}) < len(parts):
                raise zipfile.BadZipFile("two of its parts have one name")
            wrong = archive.testzip()
            if wrong is not None:
                raise zipfile.BadZipFile(f"{wrong} has another checksum")
    content.seek(0)
