"""The domains of a dataset, each cut into a part to train on and one for validation, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lowland.data import (
    Domains,
    Shuffled,
    Split,
    colored_mnist,
    data_root,
    load,
    load_domains,
    random_view,
    rotated_mnist,
    scale,
    seeded,
)
from lowland.errors import SettingError
from lowland.papers.springer2024.data import Prepared, layout, normalized
from lowland.papers.springer2024.settings import HELD_OUT, MADE_OF_MNIST, DomainSettings

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
        return len(self.indices)

    @property
    def targets(self) -> Tensor:
        """int64 ``(n,)``, where the split has them."""
        assert self.split.targets is not None
        return self.split.targets[self.indices.to(self.split.targets.device)]

    def images(self, indices: Tensor, device: torch.device) -> Tensor:
        """Those of the split at ``indices``, float32 ``(k, channels, height, width)`` in [0, 1] on ``device``."""
        return scale(self.split.inputs[indices.to(self.split.inputs.device)].to(device), 255)

    def batches(self, device: torch.device) -> Prepared:
        """All in order, as a network takes them, with their targets."""
        return Prepared(
            self.indices, self.targets.to(device), lambda chosen: normalized(self.images(chosen, device)), _AT_ONCE
        )


class DomainBatches:
    """Minibatches, so many of each portion, in random order: a function of the step alone.

    Args:
        portions: of which none has fewer examples than a batch takes.
        batch_size: of each portion; what an epoch of it has left over is dropped.
        seed: of the orders.
        device: of the batches.
        augment: whether each image is a random view.

    Raises:
        SettingError: for a portion that is smaller.
    """

    def __init__(
        self, portions: Sequence[Portion], batch_size: int, seed: int, device: torch.device, *, augment: bool = False
    ):
        smallest = min(map(len, portions))
        if batch_size > smallest:
            raise SettingError(f"batch_size is {batch_size}, and there are {smallest} images to train on: choose less")
        self.portions, self.seed, self.device, self.augment = portions, seed, device, augment
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
        return normalized(x).contiguous(memory_format=layout(self.device)), torch.cat(targets).to(self.device)


@dataclass(frozen=True, eq=False)
class DomainSets:
    """Training and validation parts of every training domain, the two parts of the domain held out; the classes.

    ``test`` is what would be trained on of the domain held out: the network is tested on it, or a probe fitted.
    ``probe_test`` is its validation part, which the probe is tested on.
    """

    train: tuple[Portion, ...]
    validation: tuple[Portion, ...]
    test: Portion
    probe_test: Portion
    classes: tuple[str, ...]


def domain_sets(settings: DomainSettings, device: torch.device) -> DomainSets:
    """All domains cut at random, alike whichever of them is held out.

    As in the benchmark, the test part is what would be trained on of that domain. Photographs stay on disk; what is
    made of MNIST lies on ``device``.

    Raises:
        DataError: if the data are missing or damaged.
    """
    made = settings.dataset in MADE_OF_MNIST
    domains = _domains(data_root(), settings.dataset, settings.size, settings.seed if made else 0)
    if made:
        domains = domains.to(device)
    train, validation = {}, {}
    for number, (name, split) in enumerate(domains.splits.items()):
        order = torch.randperm(len(split), generator=seeded(settings.seed, 2**30 + 1 + number))
        order = order[: settings.examples or None]
        held = max(1, round(HELD_OUT * len(order)))
        validation[name], train[name] = Portion(split, order[:held]), Portion(split, order[held:])
    others = [name for name in domains.splits if name != settings.held_out]
    return DomainSets(
        tuple(train[name] for name in others),
        tuple(validation[name] for name in others),
        train[settings.held_out],
        validation[settings.held_out],
        domains.classes,
    )


@lru_cache(maxsize=8)
def _domains(root: Path, dataset: str, size: int, seed: int) -> Domains:
    if dataset == "rotated-mnist":
        return rotated_mnist(load("mnist", root), seed)
    if dataset == "colored-mnist":
        return colored_mnist(load("mnist", root), seed)
    return load_domains(dataset, root, size=size)
