"""Where training is, on stderr: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from lowland import progress
from lowland.patience import Lines, lines, shown
from lowland.progress import left
from lowland.training.outcome import Record

if TYPE_CHECKING:
    from rich.progress import Progress


class Watch(Protocol):
    """Is told how far training is."""

    def update(self, done: int, arm: str, record: Record | None = None, show: Mapping[str, str] | None = None) -> None:
        """``done`` steps of all arms; the ``record`` of a check, if there was one; which entries of it to show."""

    def finish(self, done: int) -> None:
        """An arm has ended after ``done`` steps of all arms."""


class Bar:
    """One bar over all arms of a run, or what a line says in its place. The time left goes by what the steps cost."""

    def __init__(self, progress: "Progress", total: int, interval: float, said: Lines, cost: Callable[[int], float]):
        self._progress, self._total, self._interval, self._said = progress, total, interval, said
        self._cost = cost
        self._task = progress.add_task("", total=cost(total), text="", steps="")
        self._last = 0.0
        self._text: list[str] = []
        self._state = (0, "")
        self._began: tuple[int, float] | None = None  # a resumed run begins somewhere else than at 0

    def update(self, done: int, arm: str, record: Record | None = None, show: Mapping[str, str] | None = None) -> None:
        """Show ``done`` steps, and the entries of ``record`` that ``show`` names."""
        if record is not None:
            values = {label: record.get(column) for label, column in (show or {}).items()}
            self._text = [f"{label} {value:.4g}" for label, value in values.items() if value is not None]
        now = time.monotonic()
        self._began = self._began or (done, now)
        self._state = (done, arm)
        self._said.check()
        if now - self._last >= self._interval:
            self._last = now
            taken = _BAR_CELLS + max(8, len(arm)) + 2 * len(str(self._total))
            self._progress.update(self._task, description=arm, text=fitting(self._text, self._progress, taken))
            self._show(done)

    def finish(self, done: int) -> None:
        """Show the bar as it ended."""
        self._state = (done, self._state[1])
        self._show(done)

    def _show(self, done: int) -> None:
        self._progress.update(self._task, completed=self._cost(done), steps=f"{done}/{self._total}")

    def say(self, text: str) -> None:
        """A line of its own on stderr, above the bar where there is one."""
        say_above(self._progress, text)

    def line(self) -> str:
        """``sam: 120 of 900 steps (13 %), about 4 min left; loss 0.12``."""
        done, arm = self._state
        before, began = self._began or (done, time.monotonic())
        first, here, last = map(self._cost, (before, done, self._total))
        rest = left(here - first, last - first, time.monotonic() - began)
        said = f"{done} of {self._total} steps ({done / max(self._total, 1):.0%}){rest}"
        return "; ".join([f"{arm}: {said}" if arm else said, *self._text])


_BAR_CELLS = 24 + 1 + 8 + 4  # the bar, the stroke in M/N, the time left, the gaps between five columns


def fitting(parts: Sequence[str], progress: "Progress", taken: int) -> str:
    """As many of ``parts``, two spaces between them, as fit beside what takes ``taken`` characters of the terminal."""
    room = progress.console.width - taken
    chosen: list[str] = []
    for part in parts:
        if sum(map(len, chosen)) + 2 * len(chosen) + len(part) <= room:
            chosen.append(part)
    return "  ".join(chosen)


def say_above(progress: "Progress", text: str) -> None:
    """A line on stderr that stays, above the bar where one is drawn."""
    if progress.disable:
        print(text, file=sys.stderr, flush=True)
    else:
        progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar(total: int, visible: bool = True, cost: Callable[[int], float] = float) -> Iterator[Bar]:
    """A bar of ``total`` steps where stderr is a terminal, elsewhere lines now and then; nothing unless ``visible``.

    ``cost`` says of a number of steps what these cost, in any unit.
    """
    columns = ("{task.description:>8}", "bar 24", "{task.fields[steps]}", "left", "text")
    with progress.bar(*columns, describe=lambda: made.line(), show=visible, stays=True) as (drawn, said):
        made = Bar(drawn, total, 0.1, said, cost)
        yield made


def watched_by(
    watch: Watch | None, total: int, visible: bool, cost: Callable[[int], float] = float
) -> AbstractContextManager[Watch]:
    """``watch``, or where there is none a `bar` of ``total`` steps."""
    return nullcontext(watch) if watch else bar(total, visible, cost)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on stderr that something is under way whose length isn't known."""
    from rich.console import Console
    from rich.text import Text

    console, began = Console(stderr=True), time.monotonic()
    if console.is_terminal:
        with shown(console.status(Text(what, overflow="ignore", no_wrap=True))):
            yield
        return
    with lines(lambda: f"{what}: for {time.monotonic() - began:.0f} s so far"):
        yield
