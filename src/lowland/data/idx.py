"""The idx format of MNIST: a magic number with type and dimensions, big-endian sizes, then the array.

Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.
"""

import struct

import numpy as np
import torch

from lowland.data.checks import check_labels, check_length
from lowland.data.registry import Part, Source
from lowland.data.split import Split
from lowland.errors import DataError

UNSIGNED_BYTE = 0x08


def decode(data: bytes, where: str, part: Part, source: Source) -> np.ndarray:
    """The uint8 array of shape ``part.shape`` in the idx file ``where``, whose content is ``data``.

    Raises `DataError` for another type, shape or length, and for a label that is none of the classes.
    """
    dimensions = len(part.shape)
    if len(data) < part.header:
        check_length(data, part.size, where)
    magic = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if data[:4] != magic:
        raise DataError(f"{where} is not this idx file: it starts with {data[:4].hex()}, not {magic.hex()}")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if shape != part.shape:
        raise DataError(f"{where} holds an array of shape {shape}, not {part.shape}")
    check_length(data, part.size, where)
    array = np.frombuffer(data, np.uint8, offset=part.header).reshape(part.shape)
    if dimensions == 1:
        check_labels(array, len(source.classes), where)
    return array


def splits(arrays: list[np.ndarray], source: Source) -> tuple[Split, Split]:
    """Training and test split from training images and labels, test images and labels."""
    train, train_labels, test, test_labels = (torch.tensor(array) for array in arrays)
    return (
        Split(train.view(-1, *source.shape), train_labels.long()),
        Split(test.view(-1, *source.shape), test_labels.long()),
    )
