"""Bars for downloads and for images being decoded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lowland.data.registry import Download

#: Called with a download and how many of its bytes are there.
Advance = Callable[[Download, int], None]


@contextmanager
def bars(show: bool) -> Iterator[Advance]:
    """A bar for each download on stderr while it lasts; none unless ``show``, nor without a terminal."""
    from rich.console import Console  # here, because most uses of the library show no bar
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = not (show and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        tasks: dict[Download, TaskID] = {}

        def advance(download: Download, received: int) -> None:
            if download not in tasks:
                tasks[download] = progress.add_task(download.filename, total=download.size)
            progress.update(tasks[download], completed=received)

        yield advance


@contextmanager
def counting(description: str, total: int, show: bool) -> Iterator[Callable[[], None]]:
    """One bar on stderr that a call moves on by one of ``total``; none unless ``show``, nor without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not (show and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)
