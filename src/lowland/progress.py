"""How far something is: a bar on a terminal, elsewhere a line now and then."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 30.0  # seconds between two lines


class Display(Protocol):
    """What moves on a terminal, as rich has it: a bar, a status."""

    def start(self) -> None:
        """Show it; from here on a thread of its own draws it anew."""

    def stop(self) -> None:
        """Draw it once more, and show the cursor again; nothing if it is not shown."""


D = TypeVar("D", bound=Display)
_shown: list[Display] = []


@contextmanager
def shown(display: D) -> Iterator[D]:
    """``display``, from its start until the context ends, or `end_all` is called.

    A bar's own ``with`` leaves it behind where Ctrl-C comes while it begins: drawn again and again by its thread.
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
    """Stop whatever is shown still, so that what is printed next stays the last."""
    while _shown:
        with suppress(Exception):  # there is something more important to say
            _shown[-1].stop()
        _shown.pop()


class Lines:
    """Prints what ``describe`` says on stderr, every `EVERY` seconds, whatever the caller is busy with meanwhile.

    `check` raises what kept a line from being printed.
    """

    def __init__(self, describe: Callable[[], str]):
        self._describe = describe
        self._over = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begin to wait for the first line."""
        self._thread.start()

    def stop(self) -> None:
        """Print nothing more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(1.0)  # not for ever: it may wait for a reader who has stopped reading

    def check(self) -> None:
        """Raise the `OSError` that a line met with, in the caller's thread: nobody reads any more, say."""
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
    """A bar on stderr where it is a terminal, elsewhere the lines that ``describe`` gives, if it is not None.

    Args:
        columns: the bar is ``"bar"`` (as wide as there is room) or ``"bar 24"`` (characters); ``"count"`` is done and
            total, ``"bytes"`` the same in bytes, ``"left"`` the time left; anything else is a template of text.
        describe: a line for where there is no terminal.
        show: False shows neither.
        stays: whether the bar is still there when all is done.

    Yields:
        The bar, to add tasks to, and the lines, whose ``check`` says that nobody reads them any more.
    """
    from rich import progress as rich  # here, because most uses of the library show no bar
    from rich.console import Console

    console = Console(stderr=True)
    drawn = show and console.is_terminal
    made: dict[str, Callable[[], rich.ProgressColumn]] = {
        "bar": rich.BarColumn,
        "bar 24": lambda: rich.BarColumn(bar_width=24),
        "count": rich.MofNCompleteColumn,
        "bytes": rich.DownloadColumn,
        "left": rich.TimeRemainingColumn,
    }
    whole = [made[column]() if column in made else rich.TextColumn(column) for column in columns]
    progress = rich.Progress(*whole, console=console, transient=not stays, disable=not drawn, redirect_stdout=False)
    with shown(progress), lines(describe or str, describe is not None and show and not drawn) as said:
        yield progress, said


def left(done: float, total: float, seconds: float) -> str:
    """``", about 12 min left"``, by what was ``done`` in ``seconds``; nothing where that says nothing yet."""
    if done <= 0 or seconds <= 0 or total < done:
        return ""
    rest = seconds * (total - done) / done
    return f", about {rest / 60:.0f} min left" if rest >= 90 else f", about {rest:.0f} s left"
