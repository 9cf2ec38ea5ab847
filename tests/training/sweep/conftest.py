"""What the tests of engines share."""

from pathlib import Path

import pytest
import torch

from lowland.training.sweep.job import here

from .engines import Ear, job, metrics_of


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers find the experiment under the name that it has here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """The records of the first five runs, trained in this process with one thread."""
    folder, ear, threads = tmp_path_factory.mktemp("here"), Ear(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here([job(folder, seed) for seed in range(5)], ear)
    finally:
        torch.set_num_threads(threads)
    assert not any(ear.ends().values())
    return [metrics_of(folder, seed) for seed in range(5)]
