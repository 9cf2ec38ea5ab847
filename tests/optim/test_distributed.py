"""DDP, FSDP2 and tensor parallelism: two processes and four give what one gives (distributed_cases.py)."""

from functools import cache
from pathlib import Path

import pytest

from tests.optim.distributed_cases import CASES
from tests.processes import check, outcomes_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    @cache
    def run(world):
        script = Path(__file__).with_name("distributed_cases.py")
        return outcomes_of(script, world, tmp_path_factory.mktemp(f"world{world}"))

    return run


@pytest.mark.parametrize(("world", "case"), [(world, case.__name__) for world in CASES for case in CASES[world]])
def test_processes_do_as_one(outcomes, world, case):
    check(outcomes(world), case)
