"""A monitor under DDP: two processes measure what one would; pieces are refused (distributed_cases.py)."""

from pathlib import Path

import pytest

from tests.curvature.distributed_cases import CASES
from tests.processes import check, outcomes_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    script = Path(__file__).with_name("distributed_cases.py")
    return outcomes_of(script, 2, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_processes_measure_as_one(outcomes, case):
    check(outcomes, case)
