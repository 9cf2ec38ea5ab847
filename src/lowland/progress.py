"""Progress: a bar on a terminal or in a notebook, elsewhere a line every 30 seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lowland import patience
from lowland.patience import Lines, lines, shown, under_way

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


@contextmanager
def bar(
    *columns: str, describe: Callable[[], str] | None, show: bool = True, stays: bool = False
) -> Iterator[tuple["Progress", Lines]]:
    """A bar if stderr is a terminal, or in a notebook; otherwise lines from ``describe``, if it is not None.

    Args:
        columns: ``"bar"`` is the bar, as wide as there is room, ``"bar 24"`` one of 24 characters. ``"count"`` is done
            and total, ``"bytes"`` the same in bytes, ``"left"`` the time left. ``"text"`` is the field of that name;
            where nothing else has changed for two seconds, it says what is under way and for how long. Anything else is
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
            text = str(task.fields["text"]) if still < patience.PATIENCE else under_way() or f"for {still:.0f} s"
            return Text(text, no_wrap=True, overflow="ellipsis")

    return Said()


def left(done: float, total: float, seconds: float) -> str:
    """``", about 12 min left"``, extrapolated from what was ``done`` in ``seconds``; empty where it is too early."""
    if done <= 0 or seconds <= 0 or total < done:
        return ""
    rest = seconds * (total - done) / done
    return f", about {rest / 60:.0f} min left" if rest >= 90 else f", about {rest:.0f} s left"
