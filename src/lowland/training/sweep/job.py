"""What an engine trains at once, and what it hears of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from lowland.errors import LowlandError
from lowland.training.environment import choose_device
from lowland.training.experiment import Experiment
from lowland.training.logs import Log
from lowland.training.outcome import Record
from lowland.training.run import train
from lowland.training.run_directory import RunDirectory
from lowland.training.settings import Settings
from lowland.training.summary import configuration
from lowland.training.sweep.directory import finish

_NEWS_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """One run, or several as one program. It can be pickled, so that any process can train it.

    Attributes:
        experiment: which.
        scale: of its settings; for the directory's configuration.
        arms: label → settings.
        path: absolute; its run directory, which every process that may train it must see.
        device: ``"cpu"`` or ``"cuda"``.
        vectorized: whether its runs are trained as one program.
        until: pause before this step, with everything saved.
        stopped: labels of vectorized runs that are not trained any further.
        alike: how many such programs of the same kind the whole grid makes.
        log: where records go beside the run directory.
    """

    experiment: Experiment
    scale: str
    arms: Mapping[str, Settings]
    path: Path
    device: str
    vectorized: bool = False
    until: int | None = None
    stopped: frozenset[str] = frozenset()
    alike: int = 1
    log: Log | None = None


@dataclass(frozen=True)
class News:
    """How far a job is.

    Attributes:
        steps: trained so far, over all its runs.
        records: the latest of each run, by label, where there is a new one.
        ended: trained to its end, or to where it pauses.
        error: why it could not be, in one line. Then it has ended too.
    """

    steps: int = 0
    records: Mapping[str, Record] = field(default_factory=dict)
    ended: bool = False
    error: str = ""


class SweepEngine(Protocol):
    """Trains jobs: in this process, in worker processes, or on a cluster."""

    def __call__(self, jobs: Sequence[Job], hear: Callable[[Job, News], None]) -> None:
        """Train all ``jobs``; ``hear`` is called in this process, for each job at last with ``ended``.

        A job that fails is heard of and doesn't keep the others from being trained.
        """


def train_job(job: Job, tell: Callable[[News], None]) -> None:
    """Train ``job`` here, from where its directory stands, and ``tell`` about every half second how far it is.

    Raises:
        LowlandError: what the user can mend.
    """
    device = choose_device(job.device)
    watch = _Teller(tell)
    config = configuration(job.experiment, job.scale, job.arms, device) | {
        "stacked": job.vectorized,
        "alike": job.alike,
    }
    with RunDirectory(job.path, config, job.log) as directory:
        if job.vectorized:
            from lowland.training.vectorized import train_vectorized

            trained = train_vectorized(
                job.experiment, job.arms, directory, device,
                watch=watch, until=job.until, without=job.stopped, alike=job.alike,
            )  # fmt: skip
        else:
            trained = train(job.experiment, job.arms, directory, device, watch=watch, until=job.until)
        finish(job.path, trained)
    watch.tell_all()


class _Teller:
    """A `lowland.training.progress.Watch` that passes news on, now and then."""

    def __init__(self, tell: Callable[[News], None]):
        self.tell = tell
        self.told = time.monotonic()
        self.steps, self.records = 0, dict[str, Record]()

    def update(self, done: int, arm: str, record: Record | None = None, show: Mapping[str, str] | None = None) -> None:
        self.steps = done
        if record is not None:
            self.records[arm] = record
        if time.monotonic() - self.told > _NEWS_SECONDS:
            self.tell_all()

    def finish(self, done: int) -> None:
        self.steps = done

    def tell_all(self) -> None:
        """Tell of the steps so far and the records since the last time."""
        self.told = time.monotonic()
        self.tell(News(self.steps, self.records))
        self.records = {}


def here(jobs: Sequence[Job], hear: Callable[[Job, News], None]) -> None:
    """Train ``jobs`` one after the other, in this process."""
    for job in jobs:
        last = News()

        def tell(news: News, job: Job = job) -> None:
            nonlocal last
            last = news
            hear(job, news)

        try:
            train_job(job, tell)
        except LowlandError as error:
            hear(job, replace(last, ended=True, error=str(error)))
        else:
            hear(job, replace(last, ended=True))
