"""A progress bar that appears only after two seconds."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from lowland.patience import PATIENCE, doing
from lowland.progress import bar

T = TypeVar("T")


@contextmanager
def watched(items: Iterable[T], what: str, show: bool) -> Iterator[Iterator[T]]:
    """Iterate over ``items``, with a bar on stderr after two seconds, if ``show`` and stderr is a terminal."""
    with ExitStack() as stack:
        yield _with_bar(items, what, stack) if show else iter(items)


def _with_bar(items: Iterable[T], what: str, stack: ExitStack) -> Iterator[T]:
    stack.enter_context(doing(what))  # until the second item there is no bar
    begun, drawn, task = time.monotonic(), None, None
    for done, item in enumerate(items):
        if drawn is None and time.monotonic() - begun > PATIENCE:
            drawn, _ = stack.enter_context(bar("{task.description}", "bar", "count", "left", describe=None))
            task = drawn.add_task(what, total=_length(items))
        if drawn is not None and task is not None:
            drawn.update(task, completed=done)
        yield item


def _length(items: Iterable[Any]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:  # a loader of a stream has no length
        return None
