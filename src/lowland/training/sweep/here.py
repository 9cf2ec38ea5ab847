"""The engine that trains in this process, one job after the other."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lowland.errors import LowlandError
from lowland.training.sweep.job import Job, News, train_job


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
