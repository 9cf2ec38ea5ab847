"""Several processes that train together, forked; and cases that they run: functions of a module."""

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


def together(target, world, folder, *arguments, seconds=280):
    """Processes that call ``target(*arguments)`` in a folder, with the variables that torchrun would give them.

    Args:
        target: a function that they can import.
        world: how many.
        folder: where they are, and leave what they print: ``0.out``, ``0.err`` and so on.
        arguments: of the function.
        seconds: how long they may take; those that are left when one has failed have five.

    Returns:
        Their exit codes.
    """
    processes = [fork(_begin, folder, settings, target, *arguments) for settings in variables(world)]
    deadline = time.monotonic() + seconds
    while alive := [each for each in processes if each.exitcode is None]:
        if any(each.exitcode for each in processes):  # the others would wait for it in vain
            deadline = min(deadline, time.monotonic() + 5)
        if not wait([each.sentinel for each in alive], max(0, deadline - time.monotonic())):
            break
    for each in processes:
        each.kill()
        each.join()
    return [each.exitcode for each in processes]


def _begin(folder, settings, target, *arguments):
    # As one process would have it: on a machine with devices, these still want gloo.
    os.environ.update({name: str(value) for name, value in settings.items()}, CUDA_VISIBLE_DEVICES="")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.chdir(folder)
    for descriptor, kind in enumerate(("out", "err"), 1):
        os.dup2(os.open(f"{settings['RANK']}.{kind}", os.O_WRONLY | os.O_CREAT), descriptor)
    torch.set_num_threads(1)
    target(*arguments)


def variables(world):
    """For each of ``world`` processes, the variables that torchrun would give it."""
    all_have = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [all_have | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(world)]


def free_port():
    """A port of this machine that nobody listened at a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def outcomes_of(module, world, folder, joined=True):
    """Run the cases of a module in ``world`` processes; for each what every case raised, or None, by its name.

    Args:
        module: the name of one whose ``CASES`` are functions, or such lists by the number of processes. A function
            ``between``, if there is one, is called after each.
        world: how many processes.
        folder: where they run.
        joined: whether they are joined by gloo before the first case.
    """
    together(_run, world, folder, module, world, joined)
    files = [folder / f"{rank}.json" for rank in range(world)]
    return [
        json.loads(file.read_text()) if file.exists() else {"start": file.with_suffix(".err").read_text()}
        for file in files
    ]


def _run(module, world, joined):
    rank, module, outcomes = int(os.environ["RANK"]), importlib.import_module(module), {}
    warnings.simplefilter("ignore")
    if joined:
        dist.init_process_group(
            "gloo", init_method=f"file://{Path.cwd()}/meet", rank=rank, world_size=world,
            timeout=datetime.timedelta(seconds=40),
        )  # fmt: skip
    for case in module.CASES if isinstance(module.CASES, list) else module.CASES[world]:
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
