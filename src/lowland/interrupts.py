"""Ctrl-C: the first ends the command cleanly, a second one at once; neither prints a traceback."""

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
_CLEARED = f"\r\x1b[2K{_SHOWN}"  # clears the line of a bar and shows the cursor
_PATIENCE = 1.0  # seconds within which a second Ctrl-C counts as the first, while clean-up runs


class Interrupts:
    """Handles Ctrl-C from `watch` on, until the process ends.

    The first raises `KeyboardInterrupt`, as usual, so that open files and processes are closed. Others within a second
    are ignored. Later ones end the process at once, since clean-up takes too long. So does one during an import,
    because libraries turn an exception there into other ones. No more is lost than by a kill: files are written
    atomically, and workers end with this process. SIGTERM and SIGHUP end the process as usual; on a terminal the
    cursor, which a bar hides, is shown again first.

    Attributes:
        seen: whether there was a Ctrl-C.
    """

    def __init__(self) -> None:
        self.seen = False
        self._at = 0.0
        self._code: int | None = None

    def watch(self) -> None:
        """Install the handlers, unless this process ignores Ctrl-C, as a shell's background jobs do."""
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
        """All work is done: from here on Ctrl-C ends the process at once, with exit code ``code``."""
        self._code = code
        if self.seen and os.isatty(2):  # a bar that was interrupted while starting may have hidden the cursor
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
        """Handle an exception where Python can't raise one: in a destructor, for example."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            leave()
        sys.__unraisablehook__(unraisable)


def _tidy(number: int, frame: FrameType | None) -> None:
    """Restore the terminal, then let the signal end the process."""
    signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"{_CLEARED}lowland: ended by {signal.Signals(number).name}; {_AGAIN}\n".encode())
    os.kill(os.getpid(), number)


def leave() -> None:
    """Print that the command was interrupted, and end the process."""
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
