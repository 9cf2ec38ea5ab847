"""Runs for the engines of sweeps to train, and what an engine was heard to say."""

from lowland.training.sweep.job import Job
from tests.fakes import SHAKY


def job(folder, seed, until=None, **changes):
    arms = SHAKY.configure("paper", {"seed": seed, "marks": str(folder / "marks"), **changes})
    return Job(SHAKY, "paper", arms, folder / str(seed), "cpu", until=until)


def steps_of(folder, seed):
    """The steps whose batches a run has asked for, by the process that asked, in order."""
    lines = (folder / "marks" / f"{seed}-0.05.steps").read_text().splitlines()
    by_process = {}
    for line in lines:
        step, process = line.split()
        by_process.setdefault(process, []).append(int(step))
    return list(by_process.values())


def metrics_of(folder, seed):
    return (folder / str(seed) / "metrics.jsonl").read_bytes()


class Ear:
    """Hears an engine."""

    def __init__(self):
        self.news = {}

    def __call__(self, job, news):
        self.news.setdefault(job.path.name, []).append(news)

    def ends(self):
        """The error of each run, empty where there is none; each has ended once, and last."""
        assert all([said.ended for said in news] == [False] * (len(news) - 1) + [True] for news in self.news.values())
        return {name: news[-1].error for name, news in sorted(self.news.items())}
