"""Ctrl-C: once ends the command in good order, twice at once; never with a traceback."""

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

CODE = 130
_AGAIN = "the same command goes on where it stopped"
TEXT = f"lowland: interrupted; {_AGAIN}"
_SHOWN = "\x1b[?25h"
_CLEARED = f"\r\x1b[2K{_SHOWN}"  # the line of a bar, which may have hidden the cursor
_PATIENCE = 1.0  # seconds in which a second Ctrl-C is taken for the first, while things are put in order


class Interrupts:
    """What becomes of Ctrl-C from `watch` on, until the process ends.

    The first raises `KeyboardInterrupt`, as ever, so that what is open is closed; others within a second are part of
    it. One that comes while a module is being loaded ends the process on the spot, because libraries turn exceptions
    on that way into others; and so does one that comes later, because something takes too long. That loses no more
    than a kill does: files are written whole, and workers end with this process. SIGTERM and SIGHUP end the process as
    they do any other; on a terminal the cursor, which a bar hides, is shown again first.

    Attributes:
        seen: whether there was one.
    """

    def __init__(self) -> None:
        self.seen = False
        self._at = 0.0
        self._code: int | None = None

    def watch(self) -> None:
        """Begin, unless this process has been told to be deaf to Ctrl-C (as a shell's background jobs are)."""
        here = threading.current_thread() is threading.main_thread()
        if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._hear)
            sys.unraisablehook = self._lost
        if here and os.isatty(2):
            for name in ("SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, _tidy)

    def end(self, code: int) -> None:
        """From here on there is nothing left to do but Python's own end; Ctrl-C only makes it faster."""
        self._code = code
        if self.seen and os.isatty(2):  # a bar that was only beginning has hidden the cursor, and knows nothing of it
            with contextlib.suppress(OSError):
                os.write(2, _SHOWN.encode())

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._code is not None:
            os._exit(self._code)
        if _loading(frame) or (self.seen and now - self._at > _PATIENCE):
            leave()
        if not self.seen:
            self.seen, self._at = True, now
            raise KeyboardInterrupt

    def _lost(self, unraisable: Any) -> None:
        """An exception in a place where Python can't raise one: in a destructor, say."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            leave()
        sys.__unraisablehook__(unraisable)


def _tidy(number: int, frame: FrameType | None) -> None:
    """Leave the terminal as it was, then end of the signal as any program does."""
    signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"{_CLEARED}lowland: ended by {signal.Signals(number).name}; {_AGAIN}\n".encode())
    os.kill(os.getpid(), number)


def leave() -> None:
    """Say that it was interrupted, and end the process."""
    shown = os.isatty(2)
    line = f"{TEXT}\n" if not _quiet() else ""
    try:
        os.write(2, (f"{_CLEARED}{line}" if shown else line).encode())
    finally:
        os._exit(CODE)


def _quiet() -> bool:
    from lowland.launched import quiet

    return quiet()


def _loading(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
