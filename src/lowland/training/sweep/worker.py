"""A worker process of `Processes`, run as a script: nothing of lowland, hence of torch, before it is set up.

Its arguments are a pipe's number and what `processes.Seat` says in JSON. Jobs come in through the pipe; out go pairs:
``("news", News)`` any number of times, then ``("done", None)``, ``("error", text)`` for a LowlandError, or
``("crash", text)`` for any other exception, after which the process ends: who knows what state it is in.
"""

import contextlib
import ctypes
import json
import os
import pickle
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

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
    while True:
        kind, text = _train(jobs.get(), pipe)
        pipe.send((kind, text))
        if kind == "crash":
            sys.exit(1)


def _train(content: bytes, pipe: Connection) -> tuple[str, str | None]:
    from lowland.errors import LowlandError
    from lowland.training.sweep.failures import one_line, unexpected, wait_until_free
    from lowland.training.sweep.job import News, train_job

    def tell(news: News) -> None:
        pipe.send(("news", news))

    try:
        job, patience = pickle.loads(content)
        wait_until_free(job.path, patience)
        train_job(job, tell)
    except LowlandError as error:
        return "error", one_line(error)
    except Exception as error:
        return "crash", unexpected(error)
    return "done", None


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
            libc: Any = ctypes.CDLL(None)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(0)


if __name__ == "__main__":
    main()
