"""Domains by the name of their dataset, each cut into a part to train on and one for validation."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lowland.data import Domains, colored_mnist, data_root, load, load_domains, rotated_mnist, seeded
from lowland.data.mnist_domains import ANGLES, COLOURS
from lowland.data.registry import DATASETS
from lowland.papers.springer2024.photographs import Portion

HELD_OUT = 0.2  # of each domain, for validation
MADE_OF_MNIST = ("rotated-mnist", "colored-mnist")


def domain_names(dataset: str) -> tuple[str, ...]:
    """The domains of ``dataset``, in its order."""
    if dataset == "rotated-mnist":
        return tuple(map(str, ANGLES))
    if dataset == "colored-mnist":
        return tuple(COLOURS)
    return tuple(places[0] for places in DATASETS[dataset].placed)


@dataclass(frozen=True, eq=False)
class DomainSets:
    """Training and validation parts of every training domain, the test part of the domain held out; the classes."""

    train: tuple[Portion, ...]
    validation: tuple[Portion, ...]
    test: Portion
    classes: tuple[str, ...]

    @property
    def shape(self) -> torch.Size:
        """Of the images, ``(n, channels, height, width)``."""
        return self.test.split.inputs.shape


def domain_sets(settings: Any, device: torch.device) -> DomainSets:
    """All domains cut at random, alike whichever of them is held out.

    As in the benchmark, the test part is what would be trained on of that domain. Photographs stay on disk; what is
    made of MNIST lies on ``device``.

    Args:
        settings: of `domainbed`.
        device: to train on.

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
        domains.classes,
    )


@lru_cache(maxsize=8)
def _domains(root: Path, dataset: str, size: int, seed: int) -> Domains:
    if dataset == "rotated-mnist":
        return rotated_mnist(load("mnist", root), seed)
    if dataset == "colored-mnist":
        return colored_mnist(load("mnist", root), seed)
    return load_domains(dataset, root, size=size)
