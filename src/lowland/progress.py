"""Progress: a bar on a terminal or in a notebook, elsewhere a line every 30 seconds; what takes long says so."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

from lowland.launched import quiet

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

EVERY = 30.0  # seconds between two lines
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
    """``checking: eigenpairs, 12 products: for 14 s so far``; empty where nothing has taken `PATIENCE` yet."""
    now, several = time.monotonic(), [each for each in list(_under_way) if each.what]
    if not several or now - several[0].since < PATIENCE:
        return ""
    return f"{': '.join(each.what for each in several)}: for {now - several[0].since:.0f} s so far"


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
    with suppress(OSError):
        print(text, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        with suppress(OSError):
            print(f"\r{' ' * len(text)}\r", end="", file=sys.stderr, flush=True)


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
        if self._over.wait(PATIENCE):
            return
        from rich.console import Console
        from rich.text import Text

        def said() -> Text:
            return Text(under_way(), overflow="ignore", no_wrap=True)

        with suppress(OSError):  # the terminal is gone
            status = Console(stderr=True).status(said())
            _shown.append(status)
            try:
                status.start()
                while not self._over.wait(0.5):
                    status.update(said())
            finally:
                status.stop()
                with suppress(ValueError):
                    _shown.remove(status)


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
        while not self._over.wait(max(0.0, self._since + EVERY - time.monotonic())):
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


@contextmanager
def bar(
    *columns: str, describe: Callable[[], str] | None, show: bool = True, stays: bool = False
) -> Iterator[tuple["Progress", Lines]]:
    """A bar if stderr is a terminal, or in a notebook; otherwise lines from ``describe``, if it is not None.

    Args:
        columns: ``"bar"`` is the bar, as wide as there is room, ``"bar 24"`` one of 24 characters. ``"count"`` is done
            and total, ``"bytes"`` the same in bytes, ``"left"`` the time left. ``"text"`` is the field of that name;
            where nothing else has changed for `PATIENCE`, it says what is under way and for how long. Anything else is
            a text template.
        describe: gives the line to print where there is no terminal.
        show: False shows neither.
        stays: whether the bar stays on the screen when all is done.

    Yields:
        The bar, to add tasks to, and the lines, whose ``check`` raises if they can't be printed any more.
    """
    from rich import progress as rich  # here, because most uses of the library show no bar
    from rich.console import Console

    from lowland.notebook import NotebookProgress, in_notebook

    console, notebook = Console(stderr=True), show and in_notebook()
    drawn = show and (notebook or console.is_terminal)
    made: dict[str, Callable[[], rich.ProgressColumn]] = {
        "bar": rich.BarColumn,
        "bar 24": lambda: rich.BarColumn(bar_width=24),
        "count": rich.MofNCompleteColumn,
        "bytes": rich.DownloadColumn,
        "left": rich.TimeRemainingColumn,
        "text": _text_column,
    }
    whole = [made[column]() if column in made else rich.TextColumn(column) for column in columns]
    progress: rich.Progress
    if notebook:
        progress = NotebookProgress(*whole)
    else:
        progress = rich.Progress(*whole, console=console, transient=not stays, disable=not drawn, redirect_stdout=False)
    with shown(progress), lines(describe or str, describe is not None and show and not drawn) as said:
        yield progress, said


def _text_column() -> "ProgressColumn":
    """The field ``text`` of a task, or what is under way and for how long, where nothing changes."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Said(ProgressColumn):
        def __init__(self) -> None:
            super().__init__()
            self._seen: object = None
            self._since = time.monotonic()

        def render(self, task: Task) -> Text:
            seen, now = (task.completed, task.description, dict(task.fields)), time.monotonic()
            if seen != self._seen:
                self._seen, self._since = seen, now
            still = now - self._since
            text = str(task.fields["text"]) if still < PATIENCE else under_way() or f"for {still:.0f} s"
            return Text(text, no_wrap=True, overflow="ellipsis")

    return Said()


def left(done: float, total: float, seconds: float) -> str:
    """``", about 12 min left"``, extrapolated from what was ``done`` in ``seconds``; empty where it is too early."""
    if done <= 0 or seconds <= 0 or total < done:
        return ""
    rest = seconds * (total - done) / done
    return f", about {rest / 60:.0f} min left" if rest >= 90 else f", about {rest:.0f} s left"
