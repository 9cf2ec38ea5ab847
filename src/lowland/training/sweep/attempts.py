"""One attempt at a job, in whatever process, and what an engine says of those that failed."""

import pickle
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from lowland.errors import LowlandError
from lowland.training.sweep.job import Job, News, train_job

ATTEMPTS = 2  # a crash may be the machine's doing (memory, a neighbour); a second one is taken for the run's own


def packed(job: Job, patience: float) -> bytes:
    """``job`` for another process, which is to wait ``patience`` seconds for its directory."""
    return pickle.dumps((job, patience))


def attempt(content: bytes, tell: Callable[[News], None]) -> tuple[str, str]:
    """Train a `packed` job. How it went, with the reason.

    Returns:
        ``("done", "")``, ``("error", text)`` for a LowlandError, ``("crash", text)`` for any other exception.
    """
    try:
        job, patience = pickle.loads(content)
        _wait_until_free(job.path, patience)
        train_job(job, tell)
    except LowlandError as error:
        return "error", one_line(error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        return "crash", f"training raised {type(error).__name__} at {place} ({one_line(error)})"
    return "done", ""


def one_line(text: object) -> str:
    """``text`` without its line breaks."""
    return " ".join(line.strip() for line in str(text).splitlines() if line.strip())


def after(reasons: Sequence[str]) -> str:
    """Why a job is given up, from the reason that each attempt ended for."""
    if len(reasons) > 1 and len(set(reasons)) == 1:
        return f"{reasons[0]} {'twice' if len(reasons) == 2 else f'{len(reasons)} times'}"
    return ", then ".join(reasons)


def _wait_until_free(path: Path, seconds: float) -> None:
    """Wait until no process holds the run directory at ``path``, for at most ``seconds``.

    What is left of an attempt that crashed may hold it for a while: a process it had started, or a node that is out of
    reach but not yet dead. `RunDirectory` itself doesn't wait.
    """
    if not path.is_dir():
        return
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return  # the directory says so itself
    lock.release()
