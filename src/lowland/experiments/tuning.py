"""Choosing ρ for a model of one's own, by validation error over seeds."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowland.errors import LowlandError, SettingError
from lowland.experiments import sweeping
from lowland.experiments.calls import Which, found, own_errors
from lowland.experiments.running import directory_for
from lowland.training import Experiment, RunDirectory, Settings, Task, defaults
from lowland.training.registry import call_by_file
from lowland.training.settings import SettingValue
from lowland.training.user_file import refuse_inside_a_file
from lowland.values import JsonObject
from lowland.wording import counted, describe

RHOS = (0.0, 0.02, 0.05, 0.1, 0.2)  # docs/rho.md says why; 0 is training without SAM
_LONGEST = 100  # characters of settings in a folder's name


@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Attributes:
        pick: the settings with the lowest mean of the metric over the seeds, by name; of those that vary.
        rows: for each point its settings by name, under the metric's name its mean over the seeds, its
            ``standard_error``, and ``cost``: how many times as many gradients a run takes as one without SAM; NaN where
            the grid has none.
        metric: what is compared: validation error, where there is one. Lower is better.
        gain: the metric of the best settings with ρ > 0 minus that of the best with ρ = 0, paired by seed: mean and
            95 % interval, ``(mean, low, high)``; None where there is no interval.
        runs: how many times as many gradients as one run of the picked settings all runs took together.
        directory: with ``results.csv``, ``summary.json`` and figures.
        figure: the metric against the first setting that varies, with its error over seeds; a PNG file.
        without_sam: the row of the best settings with ρ = 0; None where the grid has none.
        with_sam: the row of the best settings with ρ > 0; None where it has none.
        tied: which settings have the same mean of the metric as the pick, and what decided; empty if none has.
    """

    pick: Mapping[str, SettingValue]
    rows: Sequence[Mapping[str, SettingValue]]
    metric: str
    gain: tuple[float, float, float] | None
    runs: float
    directory: Path
    figure: Path
    without_sam: Mapping[str, SettingValue] | None = None
    with_sam: Mapping[str, SettingValue] | None = None
    tied: str = ""

    @property
    def rho(self) -> float:
        """The picked ρ; KeyError where the grid has none."""
        return float(self.pick["rho"])

    def __str__(self) -> str:
        best = next(row for row in self.rows if all(row[name] == value for name, value in self.pick.items()))
        what, beside = self.metric.replace("_", " "), ""
        if self.pick.get("rho") == 0 and self.with_sam is not None:
            beside = f" (SAM at best: {self._settings(self.with_sam)}, {self._value(self.with_sam)})"
        elif self.pick.get("rho") != 0 and self.without_sam is not None:
            beside = f" (no SAM: {self._value(self.without_sam)})"
        lines = [f"Best by {what}: {self._settings(best)}, {self._value(best)}{beside}"]
        if self.tied:
            lines.append(f"It is {self.tied}.")
        rhos = {row["rho"] for row in self.rows if "rho" in row}
        if len(rhos) > 1 and self.pick["rho"] == max(rhos):
            lines.append("The pick is the largest ρ of the grid: try larger ones, too.")
        if self.gain is not None:
            mean, low, high = self.gain
            told = "lower with SAM" if high < 0 else "higher with SAM" if low > 0 else "undecided"
            lines.append(f"{what} with SAM less without: {mean:+.2g} (95 % interval {low:.2g} to {high:.2g}): {told}")
        elif self.without_sam is None or self.with_sam is None:
            lacking = "ρ = 0" if self.without_sam is None else "ρ > 0"
            lines.append(f"Nothing is said of SAM against training without it: the grid has no run with {lacking}.")
        else:
            lines.append(f"{what} with SAM against without: undecided, for want of seeds that differ")
        costs = [float(row["cost"]) for row in self.rows if float(row.get("rho", 0)) > 0 and row["cost"] == row["cost"]]
        if self.without_sam is not None and costs:
            lines.append(
                f"A run with SAM takes {max(costs):.3g} times the gradients of one without: compare at that cost, too."
            )
        lines.append(
            f"All runs together took {self.runs:.1f} times the gradients of one run with {self._settings(best)}."
        )
        return "\n".join([*lines, f"figure: {self.figure}"])

    def _settings(self, row: Mapping[str, SettingValue]) -> str:
        return describe({name: row[name] for name in self.pick})

    def _value(self, row: Mapping[str, SettingValue]) -> str:
        error = float(row["standard_error"])
        return f"{row[self.metric]:.3g}" + (f" ± {error:.2g}" if error == error else "")


@own_errors
def tune(
    build: Which | Callable[[Settings], Task],
    settings: Mapping[str, SettingValue] | None = None,
    *,
    name: str | None = None,
    grid: Mapping[str, Sequence[SettingValue]] | None = None,
    seeds: int = 3,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    **values: Any,
) -> Tuned:
    """Train every point of ``grid`` with several seeds, and pick the best by validation error.

    The rule: the lowest mean over the seeds; between equals the lower validation loss. Runs are trained side by side as
    one program where they can be; others in worker processes if they are of an experiment that a file or a package
    defines, and else here, one after the other. The same call on an unfinished directory goes on with what is missing.

    Args:
        build: ``build(settings)`` gives the task of one run, as `lowland.experiments.supervised` makes it; or an
            experiment that has one, its name, or its file.
        settings: of all runs, as `lowland.experiments.defaults` takes them: ``lr``, and ``steps``, or ``epochs`` with
            ``batch_size`` and ``examples``; ``rho`` where the grid doesn't vary it; and a
            value of any other setting that the grid varies, ``m`` say. Of an experiment those to change.
        name: of what a function builds; by default that of its script, or the function's own.
        grid: setting → values. By default ρ from 0 to 0.2.
        seeds: runs of each point.
        out: directory of the sweep; by default one under ``runs`` for each name and set of settings.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        values: further settings, by name.

    Raises:
        SettingError: for settings, a grid, seeds or a device that make no sense.
        RunError: for a directory that can't be used.
        LowlandError: if a run failed, or no point can be selected.
        Exception: what ``build`` raises for the first run.
    """
    refuse_inside_a_file()
    given = {**(settings or {}), **values}
    is_function = callable(build) and not isinstance(build, Experiment)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise SettingError(f"seeds is how many runs each point has: at least 1, not {seeds!r}")
    part = {each: tuple(several) for each, several in (grid or {"rho": RHOS}).items()}
    if "seed" in part or "seeds" in part:
        raise SettingError("the grid has no seeds: seeds=5 gives each point five")
    if is_function and "rho" not in {*part, *given}:
        raise SettingError(f"rho is neither in the grid, which varies {', '.join(part)}, nor among the settings")
    # What the grid varies needs no value of its own.
    usual = {each: part[each][0] for each in ("lr", "rho") if part.get(each)}
    experiment = _made(build, name, given, usual) if is_function else _known(build, name)
    points = {**part, "seed": tuple(range(seeds))}
    changes = {} if is_function else {each: value for each, value in given.items() if each not in part}
    path = directory_for(experiment, _folder(given), None, {}) if out is None else out
    asked = sweeping.ask(experiment, "laptop", path, points, changes, device, sweeping.AskedEngine())
    with asked.directory as directory:
        return _tuned(sweeping.finished_summary(asked) or sweeping.run_sweep(asked), directory)


def _made(
    build: Any, name: str | None, settings: Mapping[str, SettingValue], usual: Mapping[str, SettingValue]
) -> Experiment:
    """An experiment of the task that a function builds, with the ``usual`` value of what ``settings`` leave out."""
    if not settings:
        raise SettingError("say the settings of the runs: tune(build, lr=0.1, steps=500)")
    try:
        return Experiment(name=name or call_by_file(build), settings=defaults(**{**usual, **settings}), build=build)
    except (TypeError, ValueError) as error:
        raise SettingError(str(error)) from None


def _known(which: Any, name: str | None) -> Experiment:
    if name is not None:
        raise SettingError("an experiment has a name of its own: leave name out, or give a function")
    return found(which)


def _folder(settings: Mapping[str, SettingValue]) -> str:
    """``tune-lr=0.1-steps=500``; of many settings a checksum."""
    told = "-".join(f"{name}={value}" for name, value in sorted(settings.items()))
    if len(told) > _LONGEST:
        told = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]
    return f"tune-{told}" if told else "tune"


def _tuned(summary: JsonObject, directory: RunDirectory) -> Tuned:
    selection = summary["selection"]
    if summary["totals"]["failed"]:
        error = next(run["error"] for run in summary["metrics"].values() if run["status"] == "failed")
        failed = counted(summary["totals"]["failed"], "run")
        raise LowlandError(f"{failed} failed: {error}; the same call tries them again")
    if selection["selected"] is None:
        raise LowlandError(f"nothing can be picked: {selection['reason']}")
    metric = selection["metric"]
    rows = [_row(entry, metric) for entry in summary["settings"]]
    picked = next(entry for entry in summary["settings"] if entry["settings"] == selection["selected"])
    by_rho = selection["by_rho"]
    between = by_rho["difference"]
    against = next(iter(selection["selected"]))
    return Tuned(
        pick=selection["selected"],
        rows=rows,
        metric=metric,
        gain=(between["mean"], *between["interval_95"]) if between and between.get("interval_95") else None,
        runs=sum(entry["gradients"] * len(entry["runs"]) for entry in summary["settings"]) / picked["gradients"],
        directory=directory.path,
        figure=directory.figures / f"{metric}-by-{against}.png".replace("_", "-"),
        without_sam=_row_of(by_rho["without_sam"], rows),
        with_sam=_row_of(by_rho["with_sam"], rows),
        tied=selection["tied"]["text"],
    )


def _row_of(entry: JsonObject | None, rows: Sequence[Mapping[str, SettingValue]]) -> Mapping[str, SettingValue] | None:
    return None if entry is None else next(row for row in rows if entry["settings"].items() <= row.items())


def _row(entry: JsonObject, metric: str) -> dict[str, SettingValue]:
    nothing = float("nan")
    found = entry["metrics"].get(metric, {"mean": nothing, "standard_error": None})
    error, cost = found["standard_error"], entry["cost_in_gradients"]
    return {
        **entry["settings"],
        metric: found["mean"],
        "standard_error": nothing if error is None else error,
        "cost": nothing if cost is None else cost,
    }
