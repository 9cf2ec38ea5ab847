"""A monitor under DDP: two processes measure what one would; pieces are refused (distributed_cases.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.curvature.distributed_cases import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("distributed_cases.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", folder], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=280)[1] for process in processes]
    files = [folder / f"{rank}.json" for rank in range(2)]
    return [json.loads(f.read_text()) if f.exists() else {"start": e} for f, e in zip(files, errors, strict=True)]


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_processes_measure_as_one(outcomes, case):
    for rank, outcome in enumerate(outcomes):
        assert case in outcome, f"rank {rank} did not get there: {[*outcome.values()][-1]}"
        assert outcome[case] is None, f"rank {rank}: {outcome[case]}"
