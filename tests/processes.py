"""Cases for several processes: a script of functions, a process a rank, what each function raised in a file."""

import datetime
import json
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist


def outcomes_of(script, world, folder):
    """Run ``script`` as ``world`` processes; for each what `run_here` wrote, by case."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world), folder], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=280)[1] for process in processes]
    files = [folder / f"{rank}.json" for rank in range(world)]
    return [json.loads(f.read_text()) if f.exists() else {"start": e} for f, e in zip(files, errors, strict=True)]


def check(outcomes, case):
    """It raised nothing in any process."""
    for rank, outcome in enumerate(outcomes):
        assert case in outcome, f"rank {rank} did not get there: {[*outcome.values()][-1]}"
        assert outcome[case] is None, f"rank {rank}: {outcome[case]}"


def run_here(cases):
    """In a process of `outcomes_of`: run ``cases(world)``; write what each raised, or null, to a file of this rank."""
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=40)
    )
    outcomes = {}
    for case in cases(world):
        try:
            case()
            outcomes[case.__name__] = None
        except Exception:
            outcomes[case.__name__] = traceback.format_exc()
        Path(folder, f"{rank}.json").write_text(json.dumps(outcomes))
        if any(outcomes.values()):
            break  # the others wait for this process in vain from here on
    dist.destroy_process_group()
