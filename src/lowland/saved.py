"""Reads files of `torch.save` safely: nothing in them is executed, and damage is detected."""

import warnings
import zipfile
from io import BytesIO
from typing import Any

import torch

from lowland.errors import is_memory

_FOLDER = 0x10  # the bit in a zip entry's attributes that marks a folder


def tensors_in(content: bytes, device: torch.device | str, *, old: bool = False) -> Any:
    """The tensors and plain values in a file of `torch.save`. No code in it is executed; every checksum is verified.

    Args:
        content: the bytes of the file.
        device: where the tensors go.
        old: whether to read the format before torch 1.6 as well, which has no checksums.

    Raises:
        ValueError: for a damaged file, for other objects than tensors and plain values, and for other kinds of file.
        MemoryError: if memory is exhausted; torch's RuntimeError that says so passes unchanged.
    """
    try:
        if not old or zipfile.is_zipfile(BytesIO(content)):
            _verify(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about old formats: our own line says enough
            return torch.load(BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes can raise any exception in torch
        if is_memory(error):
            raise
        raise ValueError(next(iter(str(error).splitlines()), type(error).__name__)) from error


def _verify(content: bytes) -> None:
    """Raise ValueError unless the zip file is intact: torch ignores checksums, and bytes before the archive."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        entries = archive.infolist()
        if min((entry.header_offset for entry in entries), default=1) > 0:
            raise ValueError("something stands before its content")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which torch never does")
        # An entry marked as a folder torch reads as empty, and returns uninitialized memory.
        if any(entry.is_dir() or entry.external_attr & _FOLDER for entry in entries):
            raise ValueError("one of its parts says that it is a folder")
        # Only a malicious file has entries that overlap or share a name.
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its parts are larger than the file")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("two of its parts have one name")
        wrong = archive.testzip()
        if wrong is not None:
            raise ValueError(f"the checksum of {wrong} is wrong")
