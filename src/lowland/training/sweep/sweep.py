"""A sweep: every point of a grid trained, by whatever engine, from where its directory stands."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lowland.errors import SettingError
from lowland.patience import doing
from lowland.training.claim_validation import check_claims_first
from lowland.training.environment import choose_device, slow_bfloat16
from lowland.training.experiment import Experiment
from lowland.training.logs import Log
from lowland.training.outcome import Outcome
from lowland.training.settings import Settings
from lowland.training.sweep.directory import find_parts
from lowland.training.sweep.grid import Grid
from lowland.training.sweep.halving import losers, rungs
from lowland.training.sweep.job import Job, News, SweepEngine
from lowland.training.sweep.plan import plan
from lowland.training.sweep.progress import sweep_bar


def sweep(
    experiment: Experiment,
    scale: str,
    grid: Grid,
    directory: Path,
    device: str,
    engine: SweepEngine,
    *,
    vectorized: bool,
    threads: int | None = None,
    halving: int | None = None,
    show_progress: bool = True,
    still_held: Callable[[], None] = lambda: None,
    log: Log | None = None,
) -> dict[str, Outcome]:
    """Train what ``directory`` misses of ``grid``; what became of each point, in the grid's order.

    Args:
        experiment: which.
        scale: of its settings.
        grid: the points.
        directory: of the sweep, held by this process; runs are kept in folders under its ``runs``.
        device: ``"cpu"`` or ``"cuda"``.
        engine: where they are trained.
        vectorized: whether new runs are trained as one program.
        threads: of a process that trains such a program; by default this one's.
        halving: give up all but the best 1/``halving`` of the settings at each rung; by default none.
        show_progress: whether there is a bar, on a terminal.
        still_held: raises if ``directory`` is not this process's any more; called before anything is trained there, and
            whenever there is news.
        log: where records go, too.

    Raises:
        SettingError: if the runs can't be vectorized, don't fit in memory, or can't be halved; if a claim asks for what
            isn't there.
        RunError: for a directory that can't be used.
    """
    labels = {settings: label for label, settings in grid.points.items()}
    jobs = plan(
        experiment, scale, grid.points, find_parts(directory, experiment), directory, device, vectorized, threads
    )
    if jobs:
        notes = [slow_bfloat16(settings, choose_device(device)) for settings in grid.points.values()]
        if show_progress and any(notes):
            print(next(filter(None, notes)), file=sys.stderr, flush=True)
        with doing("looking at the claims", elsewhere=True):
            check_claims_first(experiment, grid.points, choose_device(device))
    errors: dict[Settings, str] = {}
    failed: set[Path] = set()
    stopped: dict[str, int] = {}
    done = {
        label: outcome.records[-1]
        for label, outcome in _results(experiment, labels, directory).items()
        if outcome.records
    }
    with sweep_bar(grid.points, done, experiment.selection, show_progress) as bar:

        def hear(job: Job, news: News) -> None:
            still_held()
            bar(job, news)
            if news.error:
                failed.add(job.path)
                errors.update(dict.fromkeys(job.arms.values(), news.error))

        for rung in [*common_rungs(experiment, grid, halving), None]:
            until = None if rung is None else rung + 1  # the check at the rung is made
            chosen = [replace(job, until=until, stopped=_stopped(job, labels, stopped), log=log) for job in jobs]
            left = [job for job in chosen if not job.stopped >= set(job.arms) and job.path not in failed]
            if left:
                still_held()
                engine(left, hear)
            if rung is not None and halving is not None and experiment.selection is not None:
                running = _results(experiment, labels, directory, every=True)
                running = {label: outcome for label, outcome in running.items() if label not in stopped}
                stopped |= dict.fromkeys(losers(running, experiment.selection, rung, halving), rung)
    begun = _results(experiment, labels, directory, every=True)
    # A run that was trained to its end is not stopped, nor has it failed if others beside it did.
    ended = _results(experiment, labels, directory)
    return {
        label: ended.get(label)
        or _left(begun.get(label, Outcome(settings, [])), errors.get(settings), stopped.get(label))
        for label, settings in grid.points.items()
    }


def _left(outcome: Outcome, error: str | None, stopped_at: int | None) -> Outcome:
    """What became of a run that was not trained to its end."""
    if stopped_at is not None:
        return replace(outcome, stopped_at=stopped_at)
    return replace(outcome, error=error or "it was not trained to its end")


def common_rungs(experiment: Experiment, grid: Grid, halving: int | None) -> list[int]:
    """The steps at which all runs of ``grid`` are compared, none without ``halving``.

    Raises:
        SettingError: if they can't be.
    """
    if halving is None:
        return []
    if experiment.selection is None:
        raise SettingError(f"{experiment.name} has no metric to compare settings by: leave --halving out")
    found = {tuple(rungs(settings, halving)) for settings in grid.points.values()}
    if len(found) > 1:
        raise SettingError("--halving compares runs at the same steps: the grid must not vary steps or check_every")
    steps = found.pop()
    if not steps:
        raise SettingError(f"--halving {halving} compares nothing: no check lies within 1/{halving} of the steps")
    return list(steps)


def _stopped(job: Job, labels: Mapping[Settings, str], stopped: Mapping[str, int]) -> frozenset[str]:
    """Those of the job's own labels whose runs were given up."""
    return frozenset(label for label, settings in job.arms.items() if labels.get(settings) in stopped)


def _results(
    experiment: Experiment, labels: Mapping[Settings, str], directory: Path, every: bool = False
) -> dict[str, Outcome]:
    """What became of the runs so far, by the label they have in this grid."""
    return {
        labels[settings]: outcome
        for part in find_parts(directory, experiment)
        for settings, outcome in part.results(every).items()
        if settings in labels
    }
