"""A worker process of `Processes`, run as a script: nothing of lowland, hence of torch, before it is set up.

Its arguments are the descriptor of a pipe and, in JSON, what it may use. Jobs come in through the pipe; out go pairs:
``("news", News)`` any number of times, then what became of the `lowland.training.sweep.attempts.attempt`. After a crash
the process ends: who knows what state it is in.
"""

import contextlib
import ctypes
import json
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Train what comes, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    pipe, setup = Connection(int(sys.argv[1])), json.loads(sys.argv[2])
    _die_with(setup["parent"])
    sys.path[:] = setup["path"]
    if setup["cores"]:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, setup["cores"])
    jobs = queue.SimpleQueue[bytes]()
    threading.Thread(target=_receive, args=(pipe, jobs), daemon=True).start()

    import torch

    torch.set_num_threads(setup["threads"])
    from lowland.training.sweep.attempts import attempt

    while True:
        outcome = attempt(jobs.get(), lambda news: pipe.send(("news", news)))
        pipe.send(outcome)
        if outcome[0] == "crash":
            sys.exit(1)


def _receive(pipe: Connection, jobs: "queue.SimpleQueue[bytes]") -> None:
    """Pass jobs on. The pipe ends when the parent closes it or dies, and then so does this process, at once."""
    try:
        while True:
            jobs.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def _die_with(parent: int) -> None:
    """On Linux the kernel sees to it as well, whatever this process is busy with."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(0)


if __name__ == "__main__":
    main()
