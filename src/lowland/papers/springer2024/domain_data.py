"""Domains by the name of their dataset, each cut into a part to train on and one for validation."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from lowland.data import Domains, colored_mnist, data_root, load, load_domains, rotated_mnist, seeded
from lowland.papers.springer2024.domain_settings import HELD_OUT, MADE_OF_MNIST, Settings
from lowland.papers.springer2024.photographs import Portion


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

    @property
    def shape(self) -> torch.Size:
        """Of the images, ``(n, channels, height, width)``."""
        return self.test.split.inputs.shape


def domain_sets(settings: Settings, device: torch.device) -> DomainSets:
    """All domains cut at random, alike whichever of them is held out.

    As in the benchmark, the test part is what would be trained on of that domain. Photographs stay on disk; what is
    made of MNIST lies on ``device``.

    Args:
        settings: which data, cut how.
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
