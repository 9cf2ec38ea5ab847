"""DDP, FSDP2 and tensor parallelism: two processes and four give what one gives (distributed_cases.py)."""

from functools import cache

import pytest

from tests.cases import check, outcomes_of
from tests.optim import distributed_cases
from tests.optim.distributed_cases import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    @cache
    def run(world):
        return outcomes_of(distributed_cases.__name__, world, tmp_path_factory.mktemp(f"world{world}"))

    return run


@pytest.mark.parametrize(("world", "case"), [(world, case.__name__) for world in CASES for case in CASES[world]])
def test_processes_do_as_one(outcomes, world, case):
    check(outcomes(world), case)
