"""What takes long says so: within two seconds on a terminal, elsewhere every 30 seconds. Nothing heavy is imported."""

import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from lowland.launched import quiet

EVERY = 30.0  # seconds between two lines
_BEGIN = 0.5  # seconds before the first line, at least
_SOON = 5.0  # seconds within which lines follow on others
PATIENCE = 1.5  # seconds for which nothing need be seen to move: so a sign is there within two
enabled = True  # False: `doing` shows nothing by itself, for programs that draw on the terminal themselves


class Display(Protocol):
    """A live display of rich on a terminal, such as a progress bar."""

    def start(self) -> None:
        """Show it; a thread redraws it from here on."""

    def stop(self) -> None:
        """Draw it a last time and show the cursor again; does nothing if it is not shown."""


D = TypeVar("D", bound=Display)
_shown: list[Display] = []


@contextmanager
def shown(display: D) -> Iterator[D]:
    """Show ``display`` until the context ends or `end_all` is called.

    The bar's own ``with`` isn't used: if Ctrl-C comes while it starts, its thread keeps drawing.
    """
    for late in list(_lates):
        late.stop()
    _shown.append(display)
    try:
        display.start()
        yield display
    finally:
        if display in _shown:
            display.stop()
            _shown.remove(display)


def end_all() -> None:
    """Stop all displays, so that nothing is drawn after what is printed next."""
    for late in list(_lates):
        late.stop()
    while _shown:
        with suppress(Exception):  # an error message follows, which matters more
            _shown[-1].stop()
        _shown.pop()


class Doing:
    """Something under way. ``what`` may change: the number of products so far, say."""

    def __init__(self, what: str):
        self.what, self.since = what, time.monotonic()


_under_way: list[Doing] = []
_lates: list["_Late"] = []
_speaking: list["Lines"] = []
_before = [-math.inf, 0.0]  # when the last lines ended, and since when they had said nothing


def under_way() -> str:
    """``checking, eigenpairs, product 12: 14 s``; empty where nothing has taken `PATIENCE` yet."""
    now, several = time.monotonic(), [each for each in list(_under_way) if each.what]
    if not several or now - several[0].since < PATIENCE:
        return ""
    return f"{', '.join(each.what for each in several)}: {now - several[0].since:.0f} s"


@contextmanager
def doing(what: str, elsewhere: bool = False) -> Iterator[Doing]:
    """Say what is under way, if it takes longer than `PATIENCE`.

    A bar or lines around it say so. Where there are none it is said on stderr, if that is a terminal, and gone when it
    ends. Of several processes that torchrun started, the first alone says something.

    Args:
        what: is under way.
        elsewhere: where stderr is no terminal, print a line every 30 seconds.
    """
    now = Doing(what)
    _under_way.append(now)
    alone = enabled and not (_shown or _lates or _speaking) and not quiet()
    late = _Late() if alone and on_terminal() else None
    try:
        with lines(str, alone and elsewhere and not on_terminal()):
            yield now
    finally:
        if late is not None:
            late.stop()
        _under_way.remove(now)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say at once that something is loaded, if stderr is a terminal: an import lets no thread say it later."""
    if not enabled or _shown or _lates or not on_terminal() or quiet():
        yield
        return
    text = f"loading {what} ..."
    _draw(text, 0)
    try:
        yield
    finally:
        _draw("", len(text))


def on_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class _Late:
    """Shows what is under way after `PATIENCE`, until it is stopped. Another display that begins stops it, too."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        _lates.append(self)
        self._thread.start()

    def stop(self) -> None:
        """Show it no longer."""
        self._over.set()
        self._thread.join(1.0)
        with suppress(ValueError):
            _lates.remove(self)

    def _work(self) -> None:
        pause, before = PATIENCE, ""
        while not self._over.wait(pause):
            room = shutil.get_terminal_size().columns - 1
            text = under_way()[:room]
            if text != before and not _draw(text, len(before)):
                return
            pause, before = 0.2, text
        if before:
            _draw("", len(before))


def _draw(text: str, before: int) -> bool:
    """Write ``text`` over one of ``before`` characters on stderr; whether it is still there."""
    try:
        print(f"\r{text.ljust(before)}\r{text}", end="", file=sys.stderr, flush=True)
    except OSError:
        return False
    return True


class Lines:
    """Prints the text of ``describe`` and what is under way on stderr every `EVERY` seconds, from a thread.

    What follows on other lines within seconds keeps their rhythm.

    `check` raises the error that kept a line from being printed.
    """

    def __init__(self, describe: Callable[[], str]):
        self._describe = describe
        self._over = threading.Event()
        self._failure: OSError | None = None
        self._since = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Start the thread; the first line comes after `EVERY` seconds."""
        now = time.monotonic()
        ended, silent_since = _before
        self._since = silent_since if now - ended < _SOON else now
        self._thread.start()

    def stop(self) -> None:
        """Print no more."""
        self._over.set()
        _before[:] = [time.monotonic(), self._since]
        if self._thread.is_alive():
            self._thread.join(1.0)  # with a timeout: a write may block if the reader has stopped reading

    def check(self) -> None:
        """Raise in the caller's thread the `OSError` of a line that couldn't be printed: a closed pipe, for example."""
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        soonest = min(EVERY, _BEGIN)
        while not self._over.wait(max(soonest, self._since + EVERY - time.monotonic())):
            self._since = time.monotonic()
            try:
                said = "; ".join(filter(None, (self._describe(), under_way())))
                if said:
                    print(said, file=sys.stderr, flush=True)
            except OSError as error:
                self._failure = error
                return


@contextmanager
def lines(describe: Callable[[], str], show: bool = True) -> Iterator[Lines]:
    """`Lines` for as long as the context lasts; silent unless ``show``."""
    said = Lines(describe)
    if not show:
        yield said
        return
    said.start()
    _speaking.append(said)
    try:
        yield said
    finally:
        said.stop()
        _speaking.remove(said)
