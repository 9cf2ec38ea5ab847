"""One run by several processes: it is that of one."""

from pathlib import Path

import pytest

from tests.processes import check, outcomes_of
from tests.training.parallel_cases import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    script = Path(__file__).with_name("parallel_cases.py")
    return {world: outcomes_of(script, world, tmp_path_factory.mktemp(f"world{world}")) for world in CASES}


@pytest.mark.parametrize(("world", "case"), [(world, case.__name__) for world in CASES for case in CASES[world]])
def test_processes_do_as_one(outcomes, world, case):
    check(outcomes[world], case)
