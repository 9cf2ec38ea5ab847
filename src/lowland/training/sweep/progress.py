"""Where a sweep is: runs done, the best so far, time left. A bar on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lowland import progress
from lowland.progress import Lines, left
from lowland.training.experiment import Selection
from lowland.training.forecast import CHANGED, SHORT, STEPS, duration, passes
from lowland.training.outcome import Record
from lowland.training.progress import fitting, say_above
from lowland.training.settings import Settings
from lowland.training.sweep.job import Job, News

_BAR_CELLS = 24 + 8 + 3  # the bar, the time left, the gaps between four columns

_FIRST, _LATER = 0.0, 0.05
_SOON = 10.0  # seconds: workers need some to start


class SweepBar:
    """Hears the news of all jobs."""

    def __init__(
        self,
        progress: Any,
        points: Mapping[str, Settings],
        done: Mapping[str, Record],
        selection: Selection | None,
        said: Lines,
    ):
        self._progress, self._selection, self._said = progress, selection, said
        self._runs, self._done = len(points), len(done)
        self._finished_steps = sum(points[label].steps for label in done)
        self._steps: dict[Any, int] = {}
        self._metrics: dict[str, float] = {}
        self._total = sum(settings.steps for settings in points.values())
        self._began = time.monotonic()
        self._work = {label: settings.steps * passes(settings) for label, settings in points.items()}
        self._finished_work = sum(self._work[label] for label in done)
        self._done_work: dict[Any, float] = {}
        self._first: dict[Any, tuple[int, float]] = {}  # steps and work of each job when it was first heard of
        self._mark = 0.0  # when the first job was
        self._forecasts = [_FIRST, _LATER]  # shares of the work that is left after which one is made
        self._forecast: float | None = None  # when all is done, by the clock
        self._line = ""
        self._task = progress.add_task("", total=self._total, completed=self._finished_steps, runs="", text="")
        for label, record in done.items():
            self._note(label, record)
        self._show()

    def __call__(self, job: Job, news: News) -> None:
        """What an engine hears is shown."""
        for label, record in news.records.items():
            self._note(label, record)
        self._steps[job.path] = news.steps
        steps = sum(settings.steps for settings in job.arms.values())
        work = sum(map(self._work.__getitem__, job.arms)) * news.steps / max(steps, 1)
        self._done_work[job.path] = work
        if news.steps and job.path not in self._first:
            self._mark = self._mark if self._first else time.monotonic()
            self._first[job.path] = news.steps, work
        if news.ended and not news.error and job.until is None:
            self._done += len(job.arms) - len(job.stopped)
        self._show()

    def _note(self, label: str, record: Record) -> None:
        value = record.get(self._selection.metric) if self._selection else None
        if value is not None:
            self._metrics[label] = value

    def _show(self) -> None:
        best = "" if self._steps else "starting"
        if self._metrics and self._selection:
            label = min(self._metrics, key=lambda label: self._metrics[label])
            best = f"lowest {self._selection.metric} so far {self._metrics[label]:.4g} ({label})"
        new = sum(self._steps.values())
        steps, runs = self._finished_steps + new, f"{self._done}/{self._runs} runs"
        text = fitting([best], self._progress, _BAR_CELLS + len(runs))
        self._progress.update(self._task, completed=steps, runs=runs, text=text)
        self._foretell()
        rest = left(new, self._total - self._finished_steps, time.monotonic() - self._began)
        done = f"{runs} done, {steps / max(self._total, 1):.0%} of all steps{rest}"
        self._line = f"{done}; {best}" if best else done
        self._said.check()

    def _foretell(self) -> None:
        """Say how long the sweep will take, from its first steps; and once more, if by later ones it is quite another.

        By the work that is done, where a step with ρ > 0 counts as two passes; but for what each job had done when it
        was first heard of: it was warming up, or had it from before.
        """
        now, total = time.monotonic(), sum(self._work.values()) - self._finished_work
        rest = total - sum(self._done_work.values())
        steps = sum(self._steps[path] - first for path, (first, _) in self._first.items())
        work = sum(self._done_work[path] - first for path, (_, first) in self._first.items())
        took = now - self._mark
        if not self._forecasts or steps < STEPS or took < _SOON or work < self._forecasts[0] * total:
            return
        self._forecasts.pop(0)
        seconds = took * rest / work
        before = None if self._forecast is None else self._forecast - now
        if seconds < SHORT or (before is not None and abs(seconds - before) <= CHANGED * max(seconds, before)):
            return
        self._forecast = now + seconds
        more = "" if before is None and not self._finished_work else " more"
        say_above(self._progress, f"about {duration(seconds)}{more}, from the first {steps} steps")

    def line(self) -> str:
        """``3/8 runs done, 40% of all steps, about 4 min left; lowest loss so far 0.12 (rho=0.1,seed=0)``."""
        return self._line


@contextmanager
def sweep_bar(
    points: Mapping[str, Settings], done: Mapping[str, Record], selection: Selection | None, visible: bool = True
) -> Iterator[SweepBar]:
    """How far all ``points`` are, of which some are ``done``: as `lowland.training.progress.bar` shows it."""
    columns = ("{task.fields[runs]}", "bar 24", "left", "{task.fields[text]}")
    with progress.bar(*columns, describe=lambda: made.line(), show=visible, stays=True) as (drawn, said):
        made = SweepBar(drawn, points, done, selection, said)
        yield made
