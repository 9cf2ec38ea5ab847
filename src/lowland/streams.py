"""Standard output and standard error in any condition: any encoding, closed, or a pipe without a reader."""

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

    A character that their encoding lacks becomes a question mark, and so does an undecodable byte of a path. A closed
    stream is replaced by one that discards everything, so that no other file gets its descriptor. If a terminal
    disappears without ending the process (SIGHUP may be ignored), output is discarded from then on and work goes on.
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
    """A terminal; if it has disappeared, what is written is discarded."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(content).nbytes


def _is_device(stream: Any, descriptor: int) -> bool:
    """Whether ``stream`` writes to ``descriptor`` and that is, or was, a character device such as a terminal."""
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
    """Whether ``stream`` can encode every character."""
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "ascii").name.startswith("utf")
    except LookupError:
        return False


def visible(text: str) -> str:
    """``text`` with the control characters, which would move the cursor, escaped."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """``text`` on one line, control characters escaped."""
    return visible(" ".join(text.split()))


def reader_gone() -> bool:
    """Whether stdout or stderr is a pipe whose reader has closed it."""
    if not hasattr(select, "poll"):
        return True  # the system offers no way to ask
    asked = select.poll()
    for descriptor in (1, 2):
        asked.register(descriptor, select.POLLOUT)
    return any(events & select.POLLERR for _, events in asked.poll(0))


def finish() -> OSError | None:
    """Flush stdout and stderr; the error if that failed. Python then prints none of its own at exit."""
    failure: OSError | None = None
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError as error:
            failure = failure or error
            _occupy(descriptor)
        except ValueError:
            pass  # closed by the caller
    return failure
