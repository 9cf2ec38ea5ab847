"""Cases that several processes run together: functions of a module, and what each raised."""

import datetime
import importlib
import json
import os
import socket
import time
import traceback
import warnings
from multiprocessing.connection import wait
from pathlib import Path

import torch
import torch.distributed as dist

from tests.forked import fork


def outcomes_of(module, world, folder, joined=True, seconds=280):
    """Run the cases of a module in ``world`` processes; for each what every case raised, or None, by its name.

    Args:
        module: the name of one whose ``CASES`` are functions, or such lists by the number of processes. A function
            ``between``, if there is one, is called after each.
        world: how many processes. Each has the variables that torchrun would give it.
        folder: the processes run there.
        joined: whether they are joined by gloo before the first case.
        seconds: how long they may take together.
    """
    settings = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = [
        fork(_work, module, folder, joined, settings | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(world)
    ]
    deadline = time.monotonic() + seconds
    while alive := [each for each in processes if each.exitcode is None]:
        if any(each.exitcode for each in processes):  # the others would wait for it in vain
            deadline = min(deadline, time.monotonic() + 5)
        if not wait([each.sentinel for each in alive], max(0, deadline - time.monotonic())):
            break
    for each in processes:
        each.kill()
        each.join()
    return [_read(folder, rank) for rank in range(world)]


def _read(folder, rank):
    file, said = folder / f"{rank}.json", folder / f"{rank}.err"
    return json.loads(file.read_text()) if file.exists() else {"start": said.read_text() if said.exists() else ""}


def free_port():
    """A port of this machine that nobody listened at a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _work(module, folder, joined, settings):
    rank = settings["RANK"]
    # As one process would have it: on a machine with devices, these cases still want gloo.
    os.environ.update({name: str(value) for name, value in settings.items()}, CUDA_VISIBLE_DEVICES="")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.chdir(folder)
    os.dup2(os.open(f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    module, outcomes = importlib.import_module(module), {}
    if joined:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=settings["WORLD_SIZE"],
            timeout=datetime.timedelta(seconds=40),
        )  # fmt: skip
    cases = module.CASES if isinstance(module.CASES, list) else module.CASES[settings["WORLD_SIZE"]]
    for case in cases:
        torch.manual_seed(0)
        try:
            case()
            outcomes[case.__name__] = None
        except BaseException:
            outcomes[case.__name__] = traceback.format_exc()
        Path(f"{rank}.json").write_text(json.dumps(outcomes))
        if outcomes[case.__name__] is not None:
            os._exit(1)
        getattr(module, "between", lambda: None)()
    if dist.is_initialized():
        dist.destroy_process_group()


def check(outcomes, case):
    """It raised nothing in any process."""
    for rank, outcome in enumerate(outcomes):
        assert case in outcome, f"rank {rank} did not get there: {[*outcome.values()][-1]}"
        assert outcome[case] is None, f"rank {rank}: {outcome[case]}"
