"""The binary format of CIFAR: records of label bytes and the red, green and blue planes of an image.

CIFAR-10 has one label byte, CIFAR-100 two: the group, then the class. Source: Krizhevsky 2009.
"""

import numpy as np
import torch

from lowland.data.checks import check_labels, check_length
from lowland.data.registry import Part, Source
from lowland.data.split import Split


def decode(data: bytes, where: str, part: Part, source: Source) -> np.ndarray:
    """The records in the file ``where``, whose content is ``data``: uint8 (n, labels + pixels).

    Raises `DataError` for another length, and for a label that is none of the classes or groups.
    """
    check_length(data, part.size, where)
    records = np.frombuffer(data, np.uint8).reshape(part.shape)
    for column, names in enumerate(_label_sets(source)):
        check_labels(records[:, column], len(names), where)
    return records


def splits(arrays: list[np.ndarray], source: Source) -> tuple[Split, Split]:
    """Training and test split; the last of the files is the test set."""
    return _split(arrays[:-1], source), _split(arrays[-1:], source)


def _split(arrays: list[np.ndarray], source: Source) -> Split:
    labels = len(_label_sets(source))
    images = torch.from_numpy(np.concatenate([records[:, labels:] for records in arrays]))
    targets = torch.from_numpy(np.concatenate([records[:, :labels] for records in arrays]).T.astype(np.int64))
    return Split(images.view(-1, *source.shape), targets[-1], targets[0] if labels == 2 else None)


def _label_sets(source: Source) -> list[tuple[str, ...]]:
    """The names that each label byte of a record chooses from."""
    return [names for names in (source.coarse_classes, source.classes) if names]
