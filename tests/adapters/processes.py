"""Cases for two processes: a script of functions, run by torchrun once, each outcome asked for by a test."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import torch

WORLD = 2


def run_cases(script, folder):
    """Run ``script`` in two processes on the CPU; a function that asserts the named case."""
    # As one process would have it: on a machine with devices, these cases still want gloo.
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORLD}"]
    command += [str(Path(__file__).with_name(script)), str(folder)]
    finished = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=280)
    files = [Path(folder, f"{rank}.json") for rank in range(WORLD)]
    found = [json.loads(file.read_text()) if file.exists() else {} for file in files]

    def check(case):
        for rank, outcome in enumerate(found):
            assert case in outcome, f"rank {rank} did not get there: {finished.stderr[-3000:]}"
            assert outcome[case] is None, f"rank {rank}: {outcome[case]}"

    return check


def run_here(cases, between=lambda: None):
    """In each process: run the functions, and write down what each raised; after an exception, no others."""
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    outcome = {}
    for case in cases:
        try:
            torch.manual_seed(0)
            case(folder)
            outcome[case.__name__] = None
        except BaseException:
            outcome[case.__name__] = traceback.format_exc()
        Path(folder, f"{rank}.json").write_text(json.dumps(outcome))
        if outcome[case.__name__] is not None:
            sys.exit(1)  # the others may wait for this one
        between()
