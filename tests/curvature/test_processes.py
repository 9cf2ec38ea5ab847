"""A monitor under DDP: two processes measure what one would; pieces are refused (distributed_cases.py)."""

import pytest

from tests.cases import check, outcomes_of
from tests.curvature import distributed_cases
from tests.curvature.distributed_cases import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return outcomes_of(distributed_cases.__name__, 2, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_processes_measure_as_one(outcomes, case):
    check(outcomes, case)
