"""Small data sets in the place of MNIST, CIFAR-10 and Fashion-MNIST, so that whole experiments run in seconds."""

import pytest
import torch

from lowland.data import Dataset, Split
from lowland.papers.springer2024 import check, data


def images(n, shape, seed):
    """Random images, a little brighter the higher the class; as many of each of ten classes."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 10
    inputs = torch.randint(100, (n, *shape), generator=generator) + 15 * targets.view(-1, 1, 1, 1)
    return Split(inputs.to(torch.uint8), targets)


@pytest.fixture
def small(monkeypatch):
    """3000 training and 400 test images under each name."""

    def load(name):
        shape = (3, 32, 32) if name == "cifar-10" else (1, 28, 28)
        train, test = images(3000, shape, 0), images(400, shape, 1)
        return Dataset(name, train, test, tuple(map(str, range(10))))

    monkeypatch.setattr(data, "load_once", load)
    monkeypatch.setattr(check, "PROBE_CS", (1e-4, 1e-3))  # the fits that take least
    data._stacked_sets.cache_clear()
    yield
    data._stacked_sets.cache_clear()
