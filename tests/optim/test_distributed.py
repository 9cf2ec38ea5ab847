"""DDP, FSDP2 and tensor parallelism: two processes and four give what one gives (distributed_cases.py)."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.optim.distributed_cases import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    @cache
    def run(world):
        folder = tmp_path_factory.mktemp(f"world{world}")
        script = Path(__file__).with_name("distributed_cases.py")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, script, str(rank), str(world), folder],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        errors = [process.communicate(timeout=280)[1] for process in processes]
        files = [folder / f"{rank}.json" for rank in range(world)]
        return [json.loads(f.read_text()) if f.exists() else {"start": e} for f, e in zip(files, errors, strict=True)]

    return run


@pytest.mark.parametrize(("world", "case"), [(world, case.__name__) for world in CASES for case in CASES[world]])
def test_processes_do_as_one(outcomes, world, case):
    for rank, outcome in enumerate(outcomes(world)):
        assert case in outcome, f"rank {rank} did not get there: {[*outcome.values()][-1]}"
        assert outcome[case] is None, f"rank {rank}: {outcome[case]}"
