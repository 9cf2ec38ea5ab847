"""Plain ASCII text, a byte a character. Zero is left free: models use it for padding."""

import numpy as np
import torch

from lowland.data.checks import check_length
from lowland.data.registry import Part, Source
from lowland.data.split import Split
from lowland.errors import DataError

NEWLINE = ord("\n")


def decode(data: bytes, where: str, part: Part, source: Source) -> np.ndarray:
    """The character codes in the file ``where``, whose content is ``data``: uint8 (characters,), 1 to 127.

    Raises `DataError` for another length or number of lines, and for a byte that is not ASCII, or zero.
    """
    check_length(data, part.size, where)
    codes = np.frombuffer(data, np.uint8)
    wrong = np.flatnonzero((codes == 0) | (codes > 127))
    if wrong.size:
        raise DataError(f"{where} is not ASCII text: byte {codes[wrong[0]]} at position {wrong[0]}")
    lines = int(np.count_nonzero(codes == NEWLINE))
    if lines != sum(source.counts):
        raise DataError(f"{where} has {lines} lines, not {sum(source.counts)}")
    return codes


def splits(arrays: list[np.ndarray], source: Source) -> tuple[Split, Split]:
    """Training and test text: the last lines, ``source.counts[1]`` of them, are the test set."""
    (codes,) = arrays
    cut = int(np.flatnonzero(codes == NEWLINE)[source.counts[0] - 1]) + 1
    return Split(torch.tensor(codes[:cut])), Split(torch.tensor(codes[cut:]))
