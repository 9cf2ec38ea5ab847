"""One run by several processes: it is that of one."""

import pytest

from tests.cases import check, outcomes_of
from tests.training import parallel_cases
from tests.training.parallel_cases import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    name = parallel_cases.__name__
    return {world: outcomes_of(name, world, tmp_path_factory.mktemp(f"world{world}")) for world in CASES}


@pytest.mark.parametrize(("world", "case"), [(world, case.__name__) for world in CASES for case in CASES[world]])
def test_processes_do_as_one(outcomes, world, case):
    check(outcomes[world], case)
