"""A bar for what takes long, and none for what doesn't."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from lowland.progress import shown

T = TypeVar("T")
_PATIENCE = 2.0  # seconds without a bar


@contextmanager
def watched(items: Iterable[T], what: str, show: bool) -> Iterator[Iterator[T]]:
    """Hands ``items`` on, with a bar on stderr after two seconds, if ``show`` and stderr is a terminal."""
    with ExitStack() as stack:
        yield _with_bar(items, what, stack) if show else iter(items)


def _with_bar(items: Iterable[T], what: str, stack: ExitStack) -> Iterator[T]:
    begun, bar, task = time.monotonic(), None, None
    for done, item in enumerate(items):
        if bar is None and time.monotonic() - begun > _PATIENCE:
            bar = stack.enter_context(shown(_bar()))
            task = bar.add_task(what, total=_length(items))
        if bar is not None:
            bar.update(task, completed=done)
        yield item


def _bar() -> Any:
    from rich.console import Console  # here, because most uses of the library show no bar
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False)


def _length(items: Iterable[Any]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:  # a loader of a stream
        return None
