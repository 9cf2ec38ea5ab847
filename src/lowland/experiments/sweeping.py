"""What `lowland sweep` does: trains a grid into a directory and writes its table, summary and figures."""

import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lowland import report
from lowland.errors import SettingError, suggestion
from lowland.experiments.running import directory_for
from lowland.files import write_atomically
from lowland.training import (
    Experiment,
    Outcome,
    RunDirectory,
    Settings,
    description,
    registry,
    sweep,
    write_description,
)
from lowland.training.environment import choose_device
from lowland.training.files import NUMBER, Each, Maybe, Shape, fault, finite
from lowland.training.logs import Log
from lowland.training.settings import check, checked, values_of
from lowland.training.sweep import Grid, SweepEngine
from lowland.training.sweep.summary import summarize_sweep
from lowland.training.sweep.table import write_table

ENGINES = ("vectorized", "process", "ray")
_ESTIMATE: dict[str, Shape] = {"mean": NUMBER, "standard_error": Maybe(NUMBER), "n": int}
_COUNTS: dict[str, Shape] = dict.fromkeys(("done", "diverged", "stopped", "failed"), int)
_BETWEEN: Shape = {**_ESTIMATE, "interval_95": Maybe([NUMBER])}
_POINT: Shape = {"settings": Each(object), "difference": Maybe(_BETWEEN), "p": Maybe(NUMBER), "p_holm": Maybe(NUMBER),
          "diverged": int, "verdict": str, "stands": bool, "reason": str}  # fmt: skip
_TREND: Shape = {"settings": Maybe(Each(object)), "per_decade": _BETWEEN, "largest": Maybe(NUMBER),
          "without_largest": Maybe(_BETWEEN)}  # fmt: skip
_SIDE: Shape = Maybe({"settings": Each(object)})
# What the command line prints of a sweep's summary.
_SUMMARY: Shape = {
    "scale": str,
    "config": dict,
    "totals": {"runs": int, **_COUNTS, "seconds": {"total": NUMBER, "compile_seconds": Maybe(NUMBER)}},
    "settings": [{"settings": Each(object), "cost_in_time": Maybe(NUMBER),
                  "cost_in_gradients": Maybe(NUMBER), "gradients": NUMBER, **_COUNTS,
                  "metrics": Each({**_ESTIMATE, "n": Maybe(int)})}],
    "selection": {"selected": Maybe(Each(object)), "reason": str, "metric": Maybe(str), "on": Maybe(str)},
    "claims": [{"id": str, "text": str, "at": Maybe({"text": str}), "over_grid": str, "interval_95": Maybe([NUMBER]),
                "measured": Maybe(NUMBER), "threshold": Maybe(str), "passed": Maybe(bool), "reason": str}],
    "differences": {"metrics": Each({"points": [_POINT], "trends": [_TREND]})},
    "metrics": Each({"status": str, "error": Maybe((str, *NUMBER))}),  # a number: a column of that name
}  # fmt: skip
_SELECTED: Shape = {
    "metric": str,
    "on": str,
    "tied": {"settings": [Each(object)], "text": str},
    "test": {"metric": Maybe(str), "mean": Maybe(NUMBER), "standard_error": Maybe(NUMBER)},
    "by_rho": {"with_sam": _SIDE, "without_sam": _SIDE, "difference": Maybe(_BETWEEN)},
}


def base_settings(experiment: Experiment, scale: str, changes: Mapping[str, Any]) -> Settings:
    """The settings at ``scale`` with the user's ``changes``, on which the grid builds.

    Raises:
        SettingError: for an unknown name or a bad value.
    """
    values = {name: value.value for name, value in experiment.values(scale).items()}
    for name, value in changes.items():
        if "." in name and name.partition(".")[0] in experiment.arms:
            raise SettingError(f"--set {name}: a sweep has no arms but the points of its grid; leave the arm out")
        values[name] = check(experiment.settings, name, value)
    if "seeds" in values:  # of a single run; here each seed is a point
        _refuse_seeds(changes)
        values["seeds"] = 1
    return checked(experiment.settings, values)


#: Values for settings, or several such grids one after the other.
Parts = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def choose_grid(experiment: Experiment, grid: str | Parts | None, base: Settings, changes: Mapping[str, Any]) -> Grid:
    """The experiment's first grid, another of its by name, that of a file, or one that is given.

    Warns:
        DeprecationWarning: for the ``paper`` of an experiment of one's own, whose first grid is called ``own``.

    Raises:
        SettingError: if the file can't be read, or has settings or values that the experiment doesn't take.
    """
    first = next(iter(experiment.grids))
    if grid == "paper" and grid not in experiment.grids:
        warnings.warn(f"the grid of {experiment.name} is called {first}, no longer paper", DeprecationWarning, 2)
        grid = first
    if grid is None:
        grid = first
    if isinstance(grid, str):
        parts = experiment.grids[grid] if grid in experiment.grids else sweep.read_grid(Path(grid))
    else:
        given = [grid] if isinstance(grid, Mapping) else list(grid)
        parts = [{name: _several(values) for name, values in part.items()} for part in given]
    for part in parts:
        _refuse_seeds(part)
    for name in changes:
        if any(name in part for part in parts):
            raise SettingError(f"{name} is given by the grid and by --set: give it in one of them")
    return sweep.make_grid(experiment, base, parts)


def _several(values: Any) -> list[Any]:
    """The values of a setting; one alone needs no list."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _refuse_seeds(names: Mapping[str, Any]) -> None:
    if "seeds" in names:
        raise SettingError('in a sweep the grid says which seeds, {"seed": [0, 1, 2]}: leave seeds out')


@dataclass(frozen=True)
class Choice:
    """An engine for a grid.

    Attributes:
        name: as on the command line; ``"one by one"`` for single runs in this process.
        train: the function that trains the grid.
        vectorized: whether runs are trained as one program.
        threads: of a process that trains such a program; None for this process's number.
        why: the reason for this engine, where the user named none.
    """

    name: str
    train: SweepEngine
    vectorized: bool = False
    threads: int | None = None
    why: str = ""


def choose_engine(
    name: str | None, experiment: Experiment, grid: Grid, device: str, workers: int | None, address: str | None
) -> Choice:
    """The engine called ``name``; by default Ray if there is an ``address``, else vectorized where that is possible.

    Raises:
        SettingError: for an option that belongs to another engine, or runs that can't be vectorized where that is asked
            for.
    """
    if device == "mps":
        raise SettingError("--device mps: a sweep trains on cpu or cuda; an Apple GPU trains single runs (lowland run)")
    why = ""
    if name is None and address is not None:
        name = "ray"
    elif name is None:
        why = sweep.can_vectorize(experiment, grid.points, device)
        name = "process" if why else "vectorized"
    if workers is not None and (name == "ray" or (name == "vectorized" and device != "cpu")):
        raise SettingError(f"--workers belongs to --engine process, or vectorized on a CPU, not {name} on {device}")
    if address is not None and name != "ray":
        raise SettingError(f"--address belongs to --engine ray, not {name}")
    if name == "ray":
        return Choice(name, sweep.Ray(address))
    here = not registry.is_found_elsewhere(experiment)  # as in a notebook: no worker process could find it
    if name == "process" and why and here:
        return Choice("one by one", sweep.here, why=f"{why}, and other processes can't find the experiment")
    if name == "process":
        return Choice(name, sweep.Processes(workers), why=why)
    many = workers or len(sweep.usable_cores())
    # A run that keeps a core busy by itself gets a process; smaller ones are vectorized in this process.
    if (
        device == "cpu"
        and many > 1
        and not here
        and not sweep.no_processes()
        and sweep.fills_programs(experiment, grid.points, device)
    ):
        return Choice(name, sweep.Processes(many), vectorized=True, threads=max(1, len(sweep.usable_cores()) // many))
    return Choice(name, sweep.here, vectorized=True)


def configuration(experiment: Experiment, scale: str, base: Settings, device: torch.device) -> dict[str, Any]:
    """The content of a sweep's ``config.json``. The grid isn't part of it, since it may grow."""
    return {
        "experiment": experiment.name,
        **registry.code(experiment),
        "scale": scale,
        "device": device.type,
        "sweep": True,
        "settings": values_of(base),
    }


@dataclass(frozen=True)
class AskedEngine:
    """What the user says of the engine: see `choose_engine`."""

    name: str | None = None
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        """SettingError for an unknown name."""
        if self.name is not None and self.name not in ENGINES:
            raise SettingError(f"unknown engine {self.name}.{suggestion(self.name, ENGINES)}")


@dataclass(frozen=True)
class AskedSweep:
    """A sweep that is asked for.

    Attributes:
        experiment: which.
        scale: of what the grid leaves alone.
        grid: the points.
        directory: not entered yet.
        device: to train on.
        named: what the user says of the engine.
        halving: give up all but the best 1/``halving`` of the settings at each rung; None for no halving.
        log: where records go, too.
    """

    experiment: Experiment
    scale: str
    grid: Grid
    directory: RunDirectory
    device: torch.device
    named: AskedEngine
    halving: int | None = None
    log: Log | None = None

    @cached_property
    def engine(self) -> Choice:
        """The engine that trains: see `choose_engine`, which builds a run to find out."""
        named = self.named
        return choose_engine(
            named.name, self.experiment, self.grid, self.device.type, named.workers, named.address
        )  # fmt: skip


def ask(
    experiment: Experiment, scale: str, out: str | os.PathLike[str] | None, grid: str | Parts | None,
    changes: Mapping[str, Any], device: str, engine: AskedEngine, **more: Any,
) -> AskedSweep:  # fmt: skip
    """Check what is asked for; nothing is written.

    Args:
        experiment: which.
        scale: of its settings.
        out: sweep directory; None for `lowland.experiments.running.directory_for`.
        grid: see `choose_grid`.
        changes: the user's settings.
        device: by its name.
        engine: which.
        more: ``halving`` and ``log``, a number and the kind of a log.

    Raises:
        SettingError: for what can't be, or can't be done.
    """
    halving, log = more.get("halving"), more.get("log")
    base = base_settings(experiment, scale, changes)
    points = choose_grid(experiment, grid, base, changes)
    chosen = choose_device(device)
    sweep.common_rungs(experiment, points, halving)  # raises an error before anything is written
    path = directory_for(experiment, f"sweep-{scale}", out, changes)
    directory = RunDirectory(path, configuration(experiment, scale, base, chosen))
    to = None if log is None else Log.beside(log, experiment.name, path)
    asked = AskedSweep(experiment, scale, points, directory, chosen, engine, halving, to)
    if not (path / "summary.json").exists():
        _ = asked.engine  # raises an error before anything is written, too
    return asked


def finished_summary(asked: AskedSweep) -> dict[str, Any] | None:
    """The summary of a finished sweep over the same grid without failed runs; else None.

    Raises:
        RunError: if the records of a run are damaged.
    """
    directory = asked.directory
    summary = directory.summary(verified=False)
    if summary is None or directory.changed_file(summary):
        return None
    what = finite(json.loads(json.dumps({"grid": _described(asked.grid), "halving": asked.halving})))
    if fault(summary, _SUMMARY):
        return None  # damaged, or of another version: it will be rewritten
    if summary["selection"]["selected"] is not None and fault(summary["selection"], _SELECTED):
        return None
    same = all(summary["config"].get(key) == value for key, value in what.items())
    same &= registry.source(asked.experiment).get("source") == summary.get("source")
    there = all((directory.path / name).is_file() for name in ("results.csv", "metrics.jsonl"))
    if not (same and there) or summary["totals"]["failed"]:
        return None
    sweep.verify_parts(directory.path, asked.experiment)
    return summary


def arms_beyond(asked: AskedSweep) -> list[str]:
    """The arms of the experiment that the grid has no point for, and that are not trained."""
    return sweep.arms_beyond(asked.experiment.arms, map(values_of, asked.grid.points.values()))


def run_sweep(asked: AskedSweep) -> dict[str, Any]:
    """Train the missing runs into the directory, which is entered, and write table, figures and summary.

    Returns:
        The summary.

    Raises:
        SettingError: if the runs can't be vectorized, don't fit in memory, or can't be halved.
        RunError: for a directory that can't be used.
    """
    started = time.monotonic()
    experiment, grid, directory, engine = asked.experiment, asked.grid, asked.directory, asked.engine
    write_description(directory, description(experiment, asked.scale, grid.points, _described(grid)))
    outcomes = sweep.sweep(
        experiment, asked.scale, grid, directory.path, asked.device.type, engine.train,
        vectorized=engine.vectorized, threads=engine.threads, halving=asked.halving,
        still_held=directory.still_held, log=asked.log,
    )  # fmt: skip
    directory.still_held()
    write_table(directory.path / "results.csv", outcomes, grid.varied)
    _write_records(directory.path / "metrics.jsonl", outcomes)
    with experiment.calling("figures"):
        report.draw_sweep(directory.figures, experiment, outcomes, grid.varied)
    config = directory.config | {"grid": _described(grid), "halving": asked.halving}
    seconds = time.monotonic() - started
    summary = summarize_sweep(experiment, config, outcomes, grid.varied, asked.device, seconds)
    directory.conclude(summary)
    return summary


def _described(grid: Grid) -> dict[str, Any]:
    """The grid in JSON's types, for the summary."""
    points = {label: {name: getattr(settings, name) for name in grid.varied} for label, settings in grid.points.items()}
    return {"varied": list(grid.varied), "points": points}


def _write_records(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """The records of all runs, each under the label that its run has in this grid."""
    lines = [
        json.dumps(finite({**record, "arm": label}))
        for label, outcome in outcomes.items()
        for record in outcome.records
    ]
    write_atomically(path, "".join(line + "\n" for line in lines).encode())
