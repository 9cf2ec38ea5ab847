"""What `torch.save` wrote, read back: nothing in it is executed, and what has changed since is noticed."""

import warnings
import zipfile
from io import BytesIO
from typing import Any

import torch

from lowland.errors import is_memory

_FOLDER = 0x10  # among the attributes of a file in an archive


def tensors_in(content: bytes, device: torch.device | str, *, old: bool = False) -> Any:
    """What `torch.save` wrote: tensors and plain values. Nothing in it is executed, and every checksum is verified.

    Args:
        content: of the file.
        device: where the tensors go.
        old: whether the format from before torch 1.6, which has no checksums, is read as well.

    Raises:
        ValueError: for damage, for objects that are no tensors, and for anything else but a file of torch's.
        MemoryError: if memory doesn't suffice; a RuntimeError of torch's that says so passes, too.
    """
    try:
        if not old or zipfile.is_zipfile(BytesIO(content)):
            _verify(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of old formats and other archives, would stand beside our line
            return torch.load(BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch lets through whatever the bytes lead to
        if is_memory(error):
            raise
        raise ValueError(next(iter(str(error).splitlines()), type(error).__name__)) from error


def _verify(content: bytes) -> None:
    """Refuse a zip file unless all of it is whole: torch passes over checksums, and over what stands before it."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        entries = archive.infolist()
        if min((entry.header_offset for entry in entries), default=1) > 0:
            raise ValueError("something stands before its content")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which torch never does")
        # What says that it is a folder torch reads as nothing, and gives whatever the memory held.
        if any(entry.is_dir() or entry.external_attr & _FOLDER for entry in entries):
            raise ValueError("one of its parts says that it is a folder")
        # Parts that lie on top of each other, or have one name, are made to fill the memory or to be mistaken.
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its parts are larger than the file")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("two of its parts have one name")
        wrong = archive.testzip()
        if wrong is not None:
            raise ValueError(f"the checksum of {wrong} is wrong")
