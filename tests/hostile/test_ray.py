"""A sweep on a Ray cluster that is told to end."""

import os
import signal

import pytest

from lowland.errors import RunError
from lowland.training.sweep.cluster import Ray
from tests.training.sweep.engines import Ear, job


class Terminated(Ear):
    """Gets SIGTERM at the first news."""

    def __call__(self, *news):
        super().__call__(*news)
        if sum(map(len, self.news.values())) == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.hostile
def test_sigterm_ends_in_a_line(tmp_path):
    """And everything that was started with it ends, too."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunError, match=r"^ended by SIGTERM; the same command goes on where it stopped$"):
        Ray()([job(tmp_path, seed, pause=5.0) for seed in range(3)], Terminated())
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == before
    assert not list(tmp_path.glob(".*"))
