"""Small images in CIFAR's place, so that whole experiments run in a second."""

from types import SimpleNamespace

import pytest
import torch

from lowland.data import Dataset, Split
from lowland.papers.andriushchenko2022 import check, task


def images(n, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=generator)
    inputs = torch.randint(256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(inputs, targets)


@pytest.fixture
def small(monkeypatch):
    """Random images of 8 × 8 pixels under the names of CIFAR-10 and CIFAR-100."""

    def load(name):
        classes = {"cifar-10": 10, "cifar-100": 100}[name]
        return Dataset(name, images(80, classes, 0), images(40, classes, 1), tuple(map(str, range(classes))))

    monkeypatch.setattr(task, "load_once", load)


@pytest.fixture
def blunt(monkeypatch):
    """Checks that leave sharpness out, which takes longer than all the rest."""
    monkeypatch.setattr(check, "sharpness", lambda *_, **options: SimpleNamespace(value=float(options["steps"])))


@pytest.fixture
def quick(blunt, undrawn):
    """Neither sharpness nor figures."""
