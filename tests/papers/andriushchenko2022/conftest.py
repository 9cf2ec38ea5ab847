"""Small images in CIFAR's place, so that whole experiments run in a second."""

import shutil
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


@pytest.fixture(scope="session")
def runs():
    """Where finished runs are, by the name of their experiment."""
    return {}


@pytest.fixture
def finished(small, blunt, lowland, runs, tmp_path, tmp_path_factory):
    """A copy of a finished run of an experiment at smoke scale, which is trained once for all tests."""

    def find(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp("finished") / name
            outcome = lowland("run", f"andriushchenko2022/{name}", "--scale", "smoke", "--out", folder)
            assert outcome.code == 0, outcome.err
            runs[name] = folder
        return shutil.copytree(runs[name], tmp_path / name)

    return find
