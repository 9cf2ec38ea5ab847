"""Progress: a bar on a terminal or in a notebook, elsewhere a line every 30 seconds."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 30.0  # seconds between two lines


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


class Lines:
    """Prints the text of ``describe`` on stderr every `EVERY` seconds, from a thread.

    `check` raises the error that kept a line from being printed.
    """

    def __init__(self, describe: Callable[[], str]):
        self._describe = describe
        self._over = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Start the thread; the first line comes after `EVERY` seconds."""
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(1.0)  # with a timeout: a write may block if the reader has stopped reading

    def check(self) -> None:
        """Raise in the caller's thread the `OSError` of a line that couldn't be printed: a closed pipe, for example."""
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while not self._over.wait(EVERY):
            try:
                print(self._describe(), file=sys.stderr, flush=True)
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
    try:
        yield said
    finally:
        said.stop()


@contextmanager
def bar(
    *columns: str, describe: Callable[[], str] | None, show: bool = True, stays: bool = False
) -> Iterator[tuple["Progress", Lines]]:
    """A bar if stderr is a terminal, or in a notebook; otherwise lines from ``describe``, if it is not None.

    Args:
        columns: ``"bar"`` is the bar, as wide as there is room, ``"bar 24"`` one of 24 characters. ``"count"`` is done
            and total, ``"bytes"`` the same in bytes, ``"left"`` the time left. Anything else is a text template.
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
    }
    whole = [made[column]() if column in made else rich.TextColumn(column) for column in columns]
    progress: rich.Progress
    if notebook:
        progress = NotebookProgress(*whole)
    else:
        progress = rich.Progress(*whole, console=console, transient=not stays, disable=not drawn, redirect_stdout=False)
    with shown(progress), lines(describe or str, describe is not None and show and not drawn) as said:
        yield progress, said


def left(done: float, total: float, seconds: float) -> str:
    """``", about 12 min left"``, extrapolated from what was ``done`` in ``seconds``; empty where it is too early."""
    if done <= 0 or seconds <= 0 or total < done:
        return ""
    rest = seconds * (total - done) / done
    return f", about {rest / 60:.0f} min left" if rest >= 90 else f", about {rest:.0f} s left"
