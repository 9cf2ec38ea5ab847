"""Which examples make up a batch."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lowland.assigning import Absent, unassignable
from lowland.errors import SettingError


def seeded(seed: int, index: int) -> torch.Generator:
    """A generator on the CPU for the draw number ``index`` (a step, an epoch) of a run with ``seed``.

    torch's generator looks at the lower 32 bits of its seed only; multiplied by 2³²/φ, neighbouring seeds are far
    apart in those.
    """
    return torch.Generator().manual_seed((seed * 2654435761 + index) % 2**32)


def shuffled_batches(n: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """One epoch of ``n`` examples in random order: index batches, int64, the last one maybe smaller.

    They are on the generator's device.
    """
    return torch.randperm(n, generator=generator, device=generator.device).split(batch_size)


@lru_cache(maxsize=8)  # tensors are told apart by identity: runs that share data share the copy, too
def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; the same copy whenever the same is asked for, as long as it is among the last few."""
    return tensor.to(device)


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """The same examples at every step: full-batch training.

    ``x``, ``y``: inputs and targets, of any shape and type.
    """

    x: Tensor
    y: Tensor

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch ``(x, y)``, the same at every step."""
        return self.x, self.y

    def to(self, device: torch.device) -> "WholeBatch":
        """The same batch on ``device``."""
        return WholeBatch(copied(self.x, device), copied(self.y, device))


_FIXED = "its batches follow from what it was made of. Make another"


@unassignable(**dict.fromkeys(("x", "y", "batch_size", "seed", "per_epoch"), _FIXED))
class Shuffled:
    """Minibatches in random order, a new order each epoch; those of a step follow from seed and step alone.

    Args:
        x: inputs, ``(n, ...)``.
        y: targets, ``(n, ...)``, on the same device.
        batch_size: examples in a batch; the last batch of an epoch may be smaller.
        seed: of the orders. They are drawn on the CPU, and so the same on every device.
        drop_last: whether a smaller last batch is left out.

    Raises:
        SettingError: for a batch size below 1 or above n.
    """

    x: Tensor
    y: Tensor
    batch_size: int
    seed: int
    per_epoch: int
    drop_last = Absent(_FIXED)

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, seed: int, *, drop_last: bool = False):
        if not 1 <= batch_size <= len(x):
            raise SettingError(f"A batch holds between 1 and all {len(x)} examples, not {batch_size}.")
        self.x, self.y, self.batch_size, self.seed = x, y, batch_size, seed
        self.per_epoch = len(x) // batch_size if drop_last else -(-len(x) // batch_size)
        self._drops_last = drop_last
        self._epoch, self._batches = -1, tuple[Tensor, ...]()

    def to(self, device: torch.device) -> "Shuffled":
        """The same batches on ``device``."""
        x, y = copied(self.x, device), copied(self.y, device)
        return Shuffled(x, y, self.batch_size, self.seed, drop_last=self._drops_last)

    def order(self, epoch: int) -> Tensor:
        """The examples in that epoch's order, int64 ``(n,)`` on the CPU."""
        return torch.randperm(len(self.x), generator=seeded(self.seed, epoch))

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """``(x, y)`` of the batch at ``step``, counted from 0 through all epochs."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self.order(epoch).to(self.x.device).split(self.batch_size)
        return self.x[self._batches[position]], self.y[self._batches[position]]
