"""What the hostile tests of data share: small datasets, a pickle that betrays itself, one clear line."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lowland.errors import LowlandError


class Payload:
    """Pickles as a call that makes a folder: who unpickles it, executes it."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is inside ends in time, or fails: a read that never ends can't be told otherwise."""

    def late(*_):
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # of the time that pytest gives the test
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)


def refused(call: Callable[[], object], *says: str, seconds: float = 10.0) -> str:
    """``call`` ends in time with an error that the command line prints as one line, which has ``says`` in it."""
    with within(seconds), pytest.raises(LowlandError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    for text in says:
        assert text in message, message
    return message


def special(path: Path, kind: str) -> None:
    """Put something in the place of the file ``path`` that is no file."""
    if path.is_dir() and not path.is_symlink():
        raise ValueError(f"{path} is a folder")
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to a fifo":
        os.mkfifo(path.with_name(path.name + ".pipe"))
        path.symlink_to(path.name + ".pipe")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            here = os.open(path.parent, os.O_RDONLY)
            try:  # the path of a socket is short
                listener.bind(f"/proc/self/fd/{here}/{path.name}")
            finally:
                os.close(here)
    else:
        raise ValueError(kind)


SPECIAL = ("fifo", "link to a fifo", "device", "folder", "loop", "socket")
