"""Bars for downloads and for images being decoded; where there is no terminal, a line now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lowland.data.registry import Download
from lowland.progress import lines, shown

#: Called with a download and how many of its bytes are there.
Advance = Callable[[Download, int], None]


@contextmanager
def bars(show: bool) -> Iterator[Advance]:
    """A bar for each download on stderr; without a terminal a line now and then; nothing unless ``show``."""
    from rich.console import Console  # here, because most uses of the library show no bar
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    drawn = show and console.is_terminal
    said = ["waiting for an answer"]
    with (
        shown(Progress(*columns, console=console, transient=True, disable=not drawn)) as progress,
        lines(lambda: said[0], show and not drawn) as told,
    ):
        tasks: dict[Download, TaskID] = {}

        def advance(download: Download, received: int) -> None:
            if download not in tasks:
                tasks[download] = progress.add_task(download.filename, total=download.size)
            progress.update(tasks[download], completed=received)
            share = received / max(download.size, 1)
            said[0] = f"{download.filename}: {received / 1e6:.1f} of {download.size / 1e6:.1f} MB ({share:.0%})"
            told.check()

        yield advance


@contextmanager
def counting(description: str, total: int, show: bool) -> Iterator[Callable[[], None]]:
    """One bar on stderr that a call moves on by one of ``total``; without a terminal and unless ``show`` as `bars`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    drawn = show and console.is_terminal
    done = [0]
    with (
        shown(Progress(*columns, console=console, transient=True, disable=not drawn)) as progress,
        lines(lambda: f"{description}: {done[0]} of {total} images", show and not drawn) as told,
    ):
        task = progress.add_task(description, total=total)

        def advance() -> None:
            done[0] += 1
            progress.advance(task)
            told.check()

        yield advance
