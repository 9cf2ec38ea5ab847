"""Bars for downloads and for images being decoded; where there is no terminal, a line now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lowland.data.registry import Download
from lowland.progress import bar

#: Called with a download and how many of its bytes are there.
Advance = Callable[[Download, int], None]


@contextmanager
def bars(show: bool) -> Iterator[Advance]:
    """A bar for each download on stderr; without a terminal a line now and then; nothing unless ``show``."""
    line = ["waiting for an answer"]
    with bar("{task.description}", "bar", "bytes", "left", describe=lambda: line[0], show=show) as (drawn, said):
        tasks: dict[Download, Any] = {}

        def advance(download: Download, received: int) -> None:
            if download not in tasks:
                tasks[download] = drawn.add_task(download.filename, total=download.size)
            drawn.update(tasks[download], completed=received)
            share = received / max(download.size, 1)
            line[0] = f"{download.filename}: {received / 1e6:.1f} of {download.size / 1e6:.1f} MB ({share:.0%})"
            said.check()

        yield advance


@contextmanager
def counting(description: str, total: int, show: bool) -> Iterator[Callable[[], None]]:
    """One bar on stderr that a call moves on by one of ``total``; without a terminal and unless ``show`` as `bars`."""
    done = 0
    with bar(
        "{task.description}", "bar", "count", "left",
        describe=lambda: f"{description}: {done} of {total} images", show=show,
    ) as (drawn, said):  # fmt: skip
        task = drawn.add_task(description, total=total)

        def advance() -> None:
            nonlocal done
            done += 1
            drawn.advance(task)
            said.check()

        yield advance
