"""Which examples make up a batch."""

import torch
from torch import Tensor

from lowland.errors import SettingError


def shuffled_batches(n: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """One epoch of ``n`` examples in random order: index batches, int64, the last one maybe smaller.

    They are on the generator's device.
    """
    return torch.randperm(n, generator=generator, device=generator.device).split(batch_size)


def text_windows(tokens: Tensor, length: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows of a text and, for each of their characters, the next: int64 (batch_size, length) each.

    ``tokens``: (characters,), integers of any type and device; every window is equally likely. Raises
    `SettingError` if the text is not longer than ``length``.
    """
    if len(tokens) <= length:
        raise SettingError(f"A window of {length} and the character after it don't fit in {len(tokens)}.")
    starts = torch.randint(len(tokens) - length, (batch_size, 1), generator=generator, device=generator.device)
    windows = tokens[(starts + torch.arange(length + 1, device=starts.device)).to(tokens.device)].long()
    return windows[:, :-1], windows[:, 1:]
