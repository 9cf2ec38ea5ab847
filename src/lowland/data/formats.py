"""The publishers' formats: from the bytes of each file to arrays, and from arrays to splits.

idx (MNIST): a magic number with type and dimensions, big-endian sizes, then the array. Source: LeCun, Cortes and
Burges, The MNIST database of handwritten digits.

cifar: records of label bytes and the red, green and blue planes of an image. CIFAR-10 has one label byte, CIFAR-100
two: the group, then the class. Source: Krizhevsky 2009.

text: plain ASCII, a byte a character. Zero is left free: models use it for padding.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lowland.data.files import find, unpack
from lowland.data.registry import Part, Source
from lowland.data.split import Split
from lowland.errors import DataError

_UNSIGNED_BYTE = 0x08
_NEWLINE = ord("\n")


def decode_idx(data: bytes, where: str, part: Part, source: Source) -> np.ndarray:
    """The uint8 array of shape ``part.shape`` in the idx file ``where``, whose content is ``data``.

    Raises `DataError` for another type, shape or length, and for a label that is none of the classes.
    """
    dimensions = len(part.shape)
    if len(data) < part.header:
        _check_length(data, part.size, where)
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if data[:4] != magic:
        raise DataError(f"{where} is not this idx file: it starts with {data[:4].hex()}, not {magic.hex()}")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if shape != part.shape:
        raise DataError(f"{where} holds an array of shape {shape}, not {part.shape}")
    _check_length(data, part.size, where)
    array = np.frombuffer(data, np.uint8, offset=part.header).reshape(part.shape)
    if dimensions == 1:
        _check_labels(array, len(source.classes), where)
    return array


def _splits_idx(arrays: list[np.ndarray], source: Source) -> tuple[Split, Split]:
    """Training and test split from training images and labels, test images and labels."""
    train, train_labels, test, test_labels = (torch.tensor(array) for array in arrays)
    return (
        Split(train.view(-1, *source.shape), train_labels.long()),
        Split(test.view(-1, *source.shape), test_labels.long()),
    )


def _decode_cifar(data: bytes, where: str, part: Part, source: Source) -> np.ndarray:
    """The records in the file ``where``, whose content is ``data``: uint8 (n, labels + pixels).

    Raises `DataError` for another length, and for a label that is none of the classes or groups.
    """
    _check_length(data, part.size, where)
    records = np.frombuffer(data, np.uint8).reshape(part.shape)
    for column, names in enumerate(_label_sets(source)):
        _check_labels(records[:, column], len(names), where)
    return records


def _splits_cifar(arrays: list[np.ndarray], source: Source) -> tuple[Split, Split]:
    """Training and test split; the last of the files is the test set."""
    return _split_cifar(arrays[:-1], source), _split_cifar(arrays[-1:], source)


def _split_cifar(arrays: list[np.ndarray], source: Source) -> Split:
    labels = len(_label_sets(source))
    images = torch.from_numpy(np.concatenate([records[:, labels:] for records in arrays]))
    targets = torch.from_numpy(np.concatenate([records[:, :labels] for records in arrays]).T.astype(np.int64))
    return Split(images.view(-1, *source.shape), targets[-1], targets[0] if labels == 2 else None)


def _label_sets(source: Source) -> list[tuple[str, ...]]:
    """The names that each label byte of a record chooses from."""
    return [names for names in (source.coarse_classes, source.classes) if names]


def _decode_text(data: bytes, where: str, part: Part, source: Source) -> np.ndarray:
    """The character codes in the file ``where``, whose content is ``data``: uint8 (characters,), 1 to 127.

    Raises `DataError` for another length or number of lines, and for a byte that is not ASCII, or zero.
    """
    _check_length(data, part.size, where)
    codes = np.frombuffer(data, np.uint8)
    wrong = np.flatnonzero((codes == 0) | (codes > 127))
    if wrong.size:
        raise DataError(f"{where} is not ASCII text: byte {codes[wrong[0]]} at position {wrong[0]}")
    lines = int(np.count_nonzero(codes == _NEWLINE))
    if lines != sum(source.counts):
        raise DataError(f"{where} has {lines} lines, not {sum(source.counts)}")
    return codes


def _splits_text(arrays: list[np.ndarray], source: Source) -> tuple[Split, Split]:
    """Training and test text: the last lines, ``source.counts[1]`` of them, are the test set."""
    (codes,) = arrays
    cut = int(np.flatnonzero(codes == _NEWLINE)[source.counts[0] - 1]) + 1
    return Split(torch.tensor(codes[:cut])), Split(torch.tensor(codes[cut:]))


def _check_length(data: bytes, size: int, where: str) -> None:
    """Raise a `DataError` unless ``data``, the content of ``where``, has exactly ``size`` bytes."""
    if len(data) < size:
        raise DataError(f"{where} is cut off: {len(data)} bytes of {size}")
    if len(data) > size:
        raise DataError(f"{where} is too long: more than {size} bytes")


def _check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """Raise a `DataError` if one of ``labels``, uint8 (n,), is not below ``classes``."""
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        first = wrong[0]
        raise DataError(f"{where} has label {labels[first]} at example {first}, outside 0 to {classes - 1}")


class Format(NamedTuple):
    """How the files of a dataset are read.

    Attributes:
        decode: the array in the bytes of one part, uint8; a `DataError` for what isn't that part.
        splits: training and test split of all arrays together.
    """

    decode: Callable[[bytes, str, Part, Source], np.ndarray]
    splits: Callable[[list[np.ndarray], Source], tuple[Split, Split]]


FORMATS = {
    "idx": Format(decode_idx, _splits_idx),
    "cifar": Format(_decode_cifar, _splits_cifar),
    "text": Format(_decode_text, _splits_text),
}


@contextmanager
def collected(problems: list[DataError]) -> Iterator[None]:
    """Append a `DataError` raised inside to ``problems`` and go on behind."""
    try:
        yield
    except DataError as error:
        problems.append(error)


def read(source: Source, folder: Path) -> tuple[list[np.ndarray], list[DataError]]:
    """The arrays of ``source.parts``, uint8, in their order, and every problem found; never raises for those.

    With problems the list of arrays is short of the damaged parts. Each problem names its file.
    """
    held: dict[Path, list[Part]] = {}
    arrays: dict[Part, np.ndarray] = {}
    problems: list[DataError] = []
    for part in source.parts:
        path = find(part, folder)
        if path is None:
            problems.append(DataError(f"{' or '.join(str(folder / place) for place in part.places)} is missing"))
        else:
            held.setdefault(path, []).append(part)
    for path, parts in held.items():
        with collected(problems):
            for part, data in unpack(path, parts):
                where = f"{part.member} in {path}" if path.name.endswith(".tar.gz") else str(path)
                with collected(problems):
                    arrays[part] = FORMATS[source.format].decode(data, where, part, source)
    return [arrays[part] for part in source.parts if part in arrays], problems


def read_digits() -> Split:
    """The digits that come with scikit-learn: pixels 0 to 16 as uint8 (1797, 1, 8, 8), labels int64 (1797,)."""
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    digits = load_digits()
    return Split(
        torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1),
        torch.from_numpy(digits.target.astype(np.int64)),
    )
