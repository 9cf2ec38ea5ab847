"""The sweep command's work: a grid trained into a directory, with its table, summary and figures."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowland import report
from lowland.errors import SettingError, suggestion
from lowland.training import Arm, Experiment, RunDirectory, Settings, sweep
from lowland.training.files import finite, write_atomically
from lowland.training.settings import check
from lowland.training.sweep import Engine, Grid
from lowland.training.sweep.outcome import summarize_sweep
from lowland.training.sweep.table import write_table

ENGINES = ("vectorized", "process", "ray")


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
    return experiment.settings(**{name: check(experiment.settings, name, value) for name, value in values.items()})


def choose_grid(experiment: Experiment, grid: str, base: Settings, changes: Mapping[str, Any]) -> Grid:
    """The grid of a file, or the ``paper``'s own.

    Raises:
        SettingError: if it can't be read, or says something that doesn't go.
    """
    parts = [dict(experiment.grid)] if grid == "paper" else sweep.read_grid(Path(grid))
    for name in changes:
        if any(name in part for part in parts):
            raise SettingError(f"{name} is given by the grid and by --set: give it in one of them")
    return sweep.make_grid(experiment, base, parts)


def choose_engine(
    name: str | None, experiment: Experiment, grid: Grid, device: str, workers: int | None, address: str | None
) -> tuple[str, Engine, bool, str]:
    """The engine of that name, or the one that suits: its name, itself, whether it stacks runs, and why it was chosen.

    Raises:
        SettingError: for an unknown name, or an option that belongs to another engine.
    """
    if name is not None and name not in ENGINES:
        raise SettingError(f"unknown engine {name}.{suggestion(name, ENGINES)}")
    why = ""
    if name is None:
        why = sweep.can_stack(experiment, grid.points, device) if workers is None and address is None else "as asked"
        name = "ray" if address else "process" if why else "vectorized"
    if workers is not None and name != "process":
        raise SettingError(f"--workers belongs to --engine process, not {name}")
    if address is not None and name != "ray":
        raise SettingError(f"--address belongs to --engine ray, not {name}")
    if name == "vectorized":
        return name, sweep.here, True, why
    if name == "process":
        from lowland.training.sweep.processes import Processes

        return name, Processes(workers), False, why
    from lowland.training.sweep.cluster import Ray

    return name, Ray(address), False, why


def configuration(experiment: Experiment, scale: str, base: Settings, device: Any) -> dict[str, Any]:
    """What a sweep's ``config.json`` holds: not its grid, which may grow."""
    return {
        "experiment": experiment.name,
        "scale": scale,
        "device": device.type,
        "sweep": True,
        "settings": asdict(base),
    }


def finished_summary(directory: RunDirectory, grid: Grid) -> dict[str, Any] | None:
    """The summary of a sweep that is finished, over this very grid and without a failure; else None."""
    summary = directory.summary()
    if summary is None or summary["config"].get("grid") != _described(grid) or summary["totals"]["failed"]:
        return None
    return summary


def run_sweep(
    experiment: Experiment, scale: str, grid: Grid, directory: RunDirectory, device: Any, engine: Engine,
    *, stacked: bool, halving: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train what is missing and write everything that comes out; the summary.

    Raises:
        SettingError: if the runs can't be stacked, don't fit in memory, or can't be halved.
        RunError: for a directory that can't be used.
    """
    started = time.monotonic()
    arms = sweep.sweep(
        experiment, scale, grid, directory.path, device.type, engine, stacked=stacked, halving=halving
    )  # fmt: skip
    write_table(directory.path / "results.csv", arms, grid.varied)
    _write_records(directory.path / "metrics.jsonl", arms)
    report.draw_sweep(directory.figures, experiment, arms, grid.varied)
    config = directory.config | {"grid": _described(grid), "halving": halving}
    summary = summarize_sweep(experiment, config, arms, grid.varied, device, time.monotonic() - started)
    directory.conclude(summary)
    return summary


def _described(grid: Grid) -> dict[str, Any]:
    """The grid as JSON has it."""
    points = {label: {name: getattr(settings, name) for name in grid.varied} for label, settings in grid.points.items()}
    return {"varied": list(grid.varied), "points": points}


def _write_records(path: Path, arms: Mapping[str, Arm]) -> None:
    """The records of all runs, each under the label that its run has in this grid."""
    lines = [json.dumps(finite({**record, "arm": label})) for label, arm in arms.items() for record in arm.records]
    write_atomically(path, "".join(line + "\n" for line in lines).encode())
