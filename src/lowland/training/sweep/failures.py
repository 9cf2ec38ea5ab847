"""What an engine says of a job that failed, and how it comes back to one that was cut off."""

import traceback
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

ATTEMPTS = 2  # a crash may be the machine's doing (memory, a neighbour); a second one is taken for the run's own


def one_line(text: object) -> str:
    """``text`` without its line breaks."""
    return " ".join(line.strip() for line in str(text).splitlines() if line.strip())


def unexpected(error: BaseException) -> str:
    """What training raised, and where: for an exception that no one foresaw."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"training raised {type(error).__name__}{place} ({one_line(error)})"


def after(reasons: Sequence[str]) -> str:
    """Why a job is given up, from the reason that each attempt ended for."""
    if len(reasons) > 1 and len(set(reasons)) == 1:
        return f"{reasons[0]} {'twice' if len(reasons) == 2 else f'{len(reasons)} times'}"
    return ", then ".join(reasons)


def wait_until_free(path: Path, seconds: float) -> None:
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
