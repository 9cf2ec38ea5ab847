"""Standard output and standard error as they are found: any encoding, closed, or with a reader who is gone."""

import codecs
import errno
import os
import re
import select
import stat
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def prepare() -> None:
    """Make stdout and stderr take any text.

    A letter that their encoding lacks becomes a question mark, and so does a byte of a path that is no text.
    One that is closed is replaced by one that swallows everything, so that no file is opened in its place. A terminal
    that goes away without a word (SIGHUP may be ignored) swallows everything from then on: what is under way goes on.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            _occupy({"stdin": 0, "stdout": 1, "stderr": 2}[name])
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the whole process
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if _is_device(stream, descriptor):
            stream.flush()
            raw = BufferedWriter(_Terminal(descriptor, "w", closefd=False))
            lines = stream.line_buffering or stream.write_through
            stream = TextIOWrapper(raw, encoding=stream.encoding, errors="replace", line_buffering=lines)
            setattr(sys, name, stream)
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


class _Terminal(FileIO):
    """A terminal, which may be gone: then nothing comes of what is written."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(content).nbytes


def _is_device(stream: Any, descriptor: int) -> bool:
    """Whether ``stream`` writes to that descriptor, and a terminal is there or was: a file takes nothing so easily."""
    try:
        return sys.platform != "win32" and stream.fileno() == descriptor and stat.S_ISCHR(os.fstat(descriptor).st_mode)
    except (OSError, AttributeError, ValueError):
        return False


def _occupy(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def speaks_utf8(stream: Any) -> bool:
    """Whether every letter can go out through ``stream``."""
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "ascii").name.startswith("utf")
    except LookupError:
        return False


def one_line(text: str) -> str:
    """``text`` without line breaks, nor what would move the cursor."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], " ".join(text.split()))


def reader_gone() -> bool:
    """Whether nobody reads any more what goes to stdout or stderr."""
    if not hasattr(select, "poll"):
        return True  # it can't be asked
    asked = select.poll()
    for descriptor in (1, 2):
        asked.register(descriptor, select.POLLOUT)
    return any(events & select.POLLERR for _, events in asked.poll(0))


def finish() -> OSError | None:
    """Hand over what is still held back; why that failed, if it did. Python has nothing left to complain of then."""
    failure: OSError | None = None
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError as error:
            failure = failure or error
            _occupy(descriptor)
        except ValueError:
            pass  # closed by whoever called
    return failure
