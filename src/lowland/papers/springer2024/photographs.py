"""Examples of domains, whose images stay where they are, their batches, errors on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowland.data import Shuffled, Split, random_view, scale, seeded
from lowland.errors import SettingError
from lowland.papers import images
from lowland.papers.springer2024.data import normalized

_AT_ONCE = 256  # images evaluated at a time
_APART = 2**26  # between the seeds of several orders


@dataclass(frozen=True, eq=False)
class Portion:
    """Some examples of a split, whose images stay where they are: memory-mapped, or on the device.

    ``indices``: int64 ``(n,)`` on the CPU.
    """

    split: Split
    indices: Tensor

    def __len__(self) -> int:
        """How many."""
        return len(self.indices)

    @property
    def targets(self) -> Tensor:
        """int64 ``(n,)``, where the split has them."""
        assert self.split.targets is not None
        return self.split.targets[self.indices.to(self.split.targets.device)]

    def images(self, indices: Tensor, device: torch.device) -> Tensor:
        """Those of the split at ``indices``, float32 ``(k, channels, height, width)`` in [0, 1] on ``device``."""
        return scale(self.split.inputs[indices.to(self.split.inputs.device)].to(device), 255)

    def batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """All in order, as a network takes them, with their targets."""
        for indices, targets in zip(self.indices.split(_AT_ONCE), self.targets.split(_AT_ONCE), strict=True):
            yield normalized(self.images(indices, device)), targets.to(device)


class Batches:
    """Minibatches, so many of each portion, in random order: a function of the step alone.

    Args:
        portions: of which none has fewer examples than a batch takes.
        batch_size: of each portion; what an epoch of it has left over is dropped.
        seed: of the orders.
        device: of the batches.
        augment: whether each image is a random view.
        channels_last: the layout of the batches.

    Raises:
        SettingError: for a portion that is smaller.
    """

    def __init__(
        self,
        portions: Sequence[Portion],
        batch_size: int,
        seed: int,
        device: torch.device,
        *,
        augment: bool = False,
        channels_last: bool = False,
    ):
        smallest = min(map(len, portions))
        if batch_size > smallest:
            raise SettingError(f"batch_size is {batch_size}, and there are {smallest} images to train on: choose less")
        self.portions, self.device, self.augment = portions, device, augment
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.seed = seed
        self.shuffled = [
            Shuffled(portion.indices, portion.targets.cpu(), batch_size, seed + number * _APART, drop_last=True)
            for number, portion in enumerate(portions)
        ]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Float32 ``(portions · batch, channels, height, width)``, and int64 ``(portions · batch,)``."""
        images, targets = [], []
        for portion, shuffled in zip(self.portions, self.shuffled, strict=True):
            indices, chosen = shuffled(step)
            images.append(portion.images(indices, self.device))
            targets.append(chosen)
        x = torch.cat(images)
        if self.augment:
            x = random_view(x, generator=seeded(self.seed + 2**31, step))  # apart from the orders' draws
        return normalized(x).contiguous(memory_format=self.layout), torch.cat(targets).to(self.device)


def error_and_loss(model: nn.Module, portion: Portion, device: torch.device) -> tuple[float, float]:
    """The share of ``portion`` that ``model``, in the mode it is in, gets wrong, and its mean cross-entropy."""
    return images.error_and_loss(model, portion.batches(device))
