"""An experiment with trouble on order, for tests of the engines; what happens to a run is marked in its folder."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import lowland.training as training
from lowland.errors import DataError
from lowland.training import Experiment, drive, ours, setting
from lowland.training.sweep.job import Job

from .. import toy

TROUBLES = ("none", "killed once", "killed", "raise, exit", "refuse")
TROUBLED_STEP = 12


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    size: int = setting("inputs", low=1)
    noisy: bool = setting("with dropout")
    kind: str = setting("of optimizer", choices=("sgd", "adam"))
    trouble: str = setting("what happens halfway", choices=TROUBLES)
    pause: float = setting("seconds a step takes, the first time", low=0.0)
    marks: str = setting("where a run marks its steps")


def prepare(settings, device):
    if settings.trouble == "refuse":
        raise DataError("there are no data\nat all")
    if settings.pause:  # then somebody means to cut it off
        drive._SECONDS = 0.0
        drive._SHARE = 1e9
    task = toy.prepare(settings, device)
    marks = Path(settings.marks)
    marks.mkdir(parents=True, exist_ok=True)
    name = f"{settings.seed}-{settings.rho}"
    pause = 0.0 if (marks / f"{name}.steps").exists() else settings.pause

    def batch(step):
        if step == TROUBLED_STEP:
            cause(settings.trouble, marks / f"{name}.once")
        with (marks / f"{name}.steps").open("a") as file:
            file.write(f"{step} {os.getpid()}\n")
        time.sleep(pause)
        return task.batch(step)

    return replace(task, batch=batch)


def cause(trouble, once):
    first = not once.exists()
    once.touch()
    if trouble == "killed" or (trouble == "killed once" and first):
        print("on the way out", flush=True)
        os.kill(os.getpid(), 9)
    if trouble == "raise, exit":
        if first:
            raise ZeroDivisionError("one\nover zero")
        os._exit(3)


VALUES = {
    "lr": ours(0.01), "rho": ours(0.05), "steps": ours(20), "check_every": ours(5), "seed": ours(0),
    "size": ours(4), "noisy": ours(True), "kind": ours("adam"),
    "trouble": ours("none"), "pause": ours(0.0), "marks": ours("marks"),
}  # fmt: skip
EXPERIMENT = Experiment(
    name="tests/shaky",
    title="shaky",
    paper="none",
    datasets=(),
    settings=Settings,
    scales={"paper": VALUES, "laptop": {}, "smoke": {}},
    arms={"run": {}},
    grid={},
    claims=(),
    figures=(),
    cost={},
    prepare=prepare,
)


def job(folder, seed, until=None, **changes):
    arms = EXPERIMENT.configure("paper", {"seed": seed, "marks": str(folder / "marks"), **changes})
    return Job(EXPERIMENT, "paper", arms, folder / str(seed), "cpu", until=until)


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
