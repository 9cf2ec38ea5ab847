"""Random batches. The second one is other data, with sequences of other lengths."""

from collections.abc import Callable

import torch
from torch import Tensor

from architectures.case import CLASSES, Batch

VOCABULARY = 30
PADDING = 0

Data = Callable[[int, int], Batch]


def generator(number: int) -> torch.Generator:
    """For batch ``number``."""
    return torch.Generator().manual_seed(100 + number)


def lengths(size: int, number: int, longest: int) -> Tensor:
    """All full in the first batch; from 2 on in others, of which the first sequence is full."""
    if number == 0:
        return torch.full((size,), longest)
    found = torch.randint(2, longest + 1, (size,), generator=generator(number))
    found[0] = longest
    return found


def signals(*shape: int) -> Data:
    """Normal numbers of ``shape`` for each example (images, sound, video) with classes."""

    def data(size: int, number: int) -> Batch:
        seeded = generator(number)
        x = torch.randn(size, *shape, generator=seeded)
        return {"x": x, "y": torch.randint(CLASSES, (size,), generator=seeded)}

    return data


def images(pixels: int) -> Data:
    """Square, in three colours."""
    return signals(3, pixels, pixels)


def tokens(longest: int = 7) -> Data:
    """Sequences with padding at the end, targets for each token, and classes."""

    def data(size: int, number: int) -> Batch:
        seeded = generator(number)
        mask = (torch.arange(longest) < lengths(size, number, longest)[:, None]).long()
        ids, targets = (torch.randint(3, VOCABULARY, (size, longest), generator=seeded) for _ in range(2))
        y = torch.randint(CLASSES, (size,), generator=seeded)
        return {"ids": ids * mask + PADDING * (1 - mask), "mask": mask, "targets": targets, "y": y}

    return data
