"""Where a sweep is: runs done, the best so far, time left. A bar on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from lowland import progress
from lowland.patience import Lines
from lowland.progress import left
from lowland.training.forecast import CHANGED, SHORT, STEPS, duration, passes
from lowland.training.outcome import Record
from lowland.training.progress import fitting, say_above
from lowland.training.selection import Selection
from lowland.training.settings import Settings
from lowland.training.sweep.job import Job, News

if TYPE_CHECKING:
    from rich.progress import Progress

_BAR_CELLS = 24 + 8 + 3  # the bar, the time left, the gaps between four columns

_FIRST, _LATER = 0.0, 0.05
_SOON = 10.0  # seconds: workers need some to start


class SweepBar:
    """Hears the news of all jobs."""

    def __init__(
        self,
        progress: "Progress",
        points: Mapping[str, Settings],
        done: Mapping[str, Record],
        selection: Selection | None,
        said: Lines,
    ):
        self._progress, self._said, self._best = progress, said, _Best(selection)
        self._forecast = _SweepForecast(points, done, lambda text: say_above(progress, text))
        self._runs, self._done = len(points), len(done)
        self._finished_steps = sum(points[label].steps for label in done)
        self._steps: dict[Path, int] = {}
        self._total = sum(settings.steps for settings in points.values())
        self._line = ""
        self._task = progress.add_task("", total=self._forecast.total, runs="", text="")
        self._best.note(done)
        self._show()

    def __call__(self, job: Job, news: News) -> None:
        """What an engine hears is shown."""
        self._best.note(news.records)
        self._steps[job.path] = news.steps
        if news.ended and not news.error and job.until is None:
            self._done += len(job.arms) - len(job.stopped)
        self._forecast.hear(job, news.steps)
        self._show()
        self._said.check()

    def _show(self) -> None:
        best = self._best.text() or ("" if self._steps else "starting")
        new = sum(self._steps.values())
        steps, runs = self._finished_steps + new, f"{self._done}/{self._runs} runs"
        text = fitting([best], self._progress, _BAR_CELLS + len(runs))
        self._progress.update(self._task, completed=self._forecast.done(), runs=runs, text=text)
        rest = self._forecast.left()
        done = f"{runs} done, {steps / max(self._total, 1):.0%} of all steps{rest}"
        self._line = f"{done}; {best}" if best else done

    def line(self) -> str:
        """``3/8 runs done, 40% of all steps, about 4 min left; lowest loss so far 0.12 (rho=0.1,seed=0)``."""
        return self._line


class _Best:
    """The lowest value so far of the metric that is selected by."""

    def __init__(self, selection: Selection | None):
        self._selection, self._metrics = selection, dict[str, float]()

    def note(self, records: Mapping[str, Record]) -> None:
        """Take in the latest ``records`` of some runs, by label."""
        if self._selection is not None:
            metric = self._selection.metric
            found = {label: record[metric] for label, record in records.items() if metric in record}
            for label, value in found.items():
                if value is not None and isfinite(value):
                    self._metrics[label] = value
                else:
                    self._metrics.pop(label, None)

    def text(self) -> str:
        """What it is, and whose; empty if there is none."""
        if not self._metrics or self._selection is None:
            return ""
        label = min(self._metrics, key=lambda label: self._metrics[label])
        return f"lowest {self._selection.metric} so far {self._metrics[label]:.4g} ({label})"


class _SweepForecast:
    """Says how long the sweep will take, from its first steps; and once more, if by later ones it is quite another.

    By the work that is done, where a step with ρ > 0 counts as two passes; but for what each job had done when it was
    first heard of: it was warming up, or had it from before.
    """

    def __init__(self, points: Mapping[str, Settings], done: Mapping[str, Record], say: Callable[[str], None]):
        self._say = say
        self._work = {label: settings.steps * passes(settings.rho) for label, settings in points.items()}
        self._finished = sum(self._work[label] for label in done)
        self.total = sum(self._work.values())
        self._now: dict[Path, tuple[int, float]] = {}  # steps and work of each job
        self._first: dict[Path, tuple[int, float]] = {}  # the same when it was first heard of
        self._mark = 0.0  # when the first job was
        self._shares = [_FIRST, _LATER]  # of the work that is left, after which a forecast is made
        self._ends: float | None = None  # when all is done, by the clock, as told before

    def done(self) -> float:
        """The work done so far, of ``total``."""
        return self._finished + sum(work for _, work in self._now.values())

    def left(self) -> str:
        """The time left, in words; empty where it is too early."""
        made = sum(self._now[path][1] - first for path, (_, first) in self._first.items())
        return left(made, made + self.total - self.done(), time.monotonic() - self._mark)

    def hear(self, job: Job, steps: int) -> None:
        """A job has made so many steps."""
        work = sum(map(self._work.__getitem__, job.arms)) * steps / max(sum(s.steps for s in job.arms.values()), 1)
        self._now[job.path] = steps, work
        now = time.monotonic()
        if steps and job.path not in self._first:
            self._mark = self._mark if self._first else now
            self._first[job.path] = steps, work
        rest = self.total - self.done()
        made = sum(self._now[path][0] - first for path, (first, _) in self._first.items())
        work = sum(self._now[path][1] - first for path, (_, first) in self._first.items())
        took = now - self._mark
        if not self._shares or made < STEPS or took < _SOON or work < self._shares[0] * (self.total - self._finished):
            return
        self._shares.pop(0)
        seconds = took * rest / work
        before = None if self._ends is None else self._ends - now
        if seconds < SHORT or (before is not None and abs(seconds - before) <= CHANGED * max(seconds, before)):
            return
        self._ends = now + seconds
        more = "" if before is None and not self._finished else " more"
        self._say(f"about {duration(seconds)}{more}, from the first {made} steps")


@contextmanager
def sweep_bar(
    points: Mapping[str, Settings], done: Mapping[str, Record], selection: Selection | None, visible: bool = True
) -> Iterator[SweepBar]:
    """How far all ``points`` are, of which some are ``done``: as `lowland.training.progress.bar` shows it."""
    columns = ("{task.fields[runs]}", "bar 24", "left", "text")
    with progress.bar(*columns, describe=lambda: made.line(), show=visible, stays=True) as (drawn, said):
        made = SweepBar(drawn, points, done, selection, said)
        yield made
