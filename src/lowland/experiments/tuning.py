"""Choosing ρ for a model of one's own, by validation error over seeds."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowland.errors import LowlandError, SettingError
from lowland.experiments import sweeping
from lowland.training import Experiment, RunDirectory, Settings, Task, defaults
from lowland.training.settings import SettingValue
from lowland.values import JsonObject

RHOS = (0.0, 0.02, 0.05, 0.1, 0.2)  # docs/rho.md says why; 0 is training without SAM


@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Attributes:
        pick: the settings with the lowest mean of the metric over the seeds, by name; of those that vary.
        rows: settings by name, and under the metric's name its mean and standard error over the seeds, for each point.
        metric: what is compared: validation error, where there is one.
        gain: the metric of the best settings with ρ > 0 minus that of the best with ρ = 0, paired by seed: mean and
            95 % interval, ``(mean, low, high)``; None where the seeds are too few.
        runs: how many times as long as one run of the picked settings all took together.
        directory: with ``results.csv``, ``summary.json`` and figures.
        figure: the metric against the first setting that varies, with its error over seeds; a PNG file.
    """

    pick: Mapping[str, SettingValue]
    rows: Sequence[Mapping[str, SettingValue]]
    metric: str
    gain: tuple[float, float, float] | None
    runs: float
    directory: Path
    figure: Path

    @property
    def rho(self) -> float:
        """The picked ρ; KeyError where the grid has none."""
        return float(self.pick["rho"])

    def __str__(self) -> str:
        shown = ", ".join(f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
                          for name, value in self.pick.items())  # fmt: skip
        lines = [f"pick: {shown}, by {self.metric.replace('_', ' ')}"]
        rhos = {row["rho"] for row in self.rows if "rho" in row}
        if len(rhos) > 1 and self.pick["rho"] == max(rhos):
            lines.append("the pick is the largest ρ of the grid: try larger ones, too")
        if self.gain is not None:
            mean, low, high = self.gain
            lines.append(f"SAM less training without it: {mean:.4g} (95 % interval {low:.4g} to {high:.4g})")
        return "\n".join([*lines, f"cost: {self.runs:.1f} runs of the pick", f"figure: {self.figure}"])


def tune(
    build: Experiment | Callable[[Settings], Task],
    settings: Mapping[str, SettingValue] | None = None,
    *,
    grid: Mapping[str, Sequence[SettingValue]] | None = None,
    seeds: int = 3,
    out: str | os.PathLike[str] = "runs/tune",
    device: str = "auto",
) -> Tuned:
    """Train every point of ``grid`` with several seeds, and pick the best by validation error.

    The rule: the lowest mean over the seeds; between equals the lower validation loss. Runs are trained side by side as
    one program where they can be; others in worker processes if they are of an experiment that a file or a package
    defines, and else here, one after the other. The same call on an unfinished directory goes on with what is missing.

    Args:
        build: ``build(settings)`` gives the task of one run, as `lowland.experiments.supervised` makes it; or an
            experiment that has one.
        settings: of all runs, as `lowland.experiments.defaults` takes them: ``lr``, ``rho``, and ``steps``, or
            ``epochs`` with ``batch_size`` and ``examples``. None for an experiment, which has its own.
        grid: setting → values. By default ρ from 0 to 0.2.
        seeds: runs of each point.
        out: directory of the sweep.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        SettingError: for settings, a grid, seeds or a device that make no sense.
        RunError: for a directory that can't be used.
        LowlandError: if a run failed, or no point can be selected.
    """
    experiment = _experiment(build, settings)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise SettingError(f"seeds is how many runs each point has: at least 1, not {seeds!r}")
    part = {name: tuple(values) for name, values in (grid or {"rho": RHOS}).items()}
    if "seed" in part or "seeds" in part:
        raise SettingError("the grid has no seeds: seeds=5 gives each point five")
    points = {**part, "seed": tuple(range(seeds))}
    asked = sweeping.ask(experiment, "paper", out, points, {}, device, sweeping.AskedEngine())
    with asked.directory as directory:
        return _tuned(sweeping.finished_summary(asked) or sweeping.run_sweep(asked), directory)


def _experiment(
    build: Experiment | Callable[[Settings], Task], settings: Mapping[str, SettingValue] | None
) -> Experiment:
    if isinstance(build, Experiment):
        if settings is not None:
            raise SettingError("an experiment has settings of its own: leave settings out, or give a function")
        return build
    if settings is None:
        raise SettingError("say the settings of the runs: tune(build, {'lr': 0.1, 'rho': 0.05, 'steps': 500})")
    try:
        return Experiment(
            name=getattr(build, "__name__", "tune").strip("<>"), settings=defaults(**settings), build=build
        )
    except (TypeError, ValueError) as error:
        raise SettingError(str(error)) from None


def _tuned(summary: JsonObject, directory: RunDirectory) -> Tuned:
    selection = summary["selection"]
    if summary["totals"]["failed"]:
        error = next(run["error"] for run in summary["metrics"].values() if run["status"] == "failed")
        raise LowlandError(f"{summary['totals']['failed']} runs failed: {error}; the same call tries them again")
    if selection["selected"] is None:
        raise LowlandError(f"nothing can be picked: {selection['reason']}")
    metric = selection["metric"]
    rows = [_row(entry, metric) for entry in summary["settings"]]
    picked = next(entry for entry in summary["settings"] if entry["settings"] == selection["selected"])
    spent = [_seconds(run) for run in summary["metrics"].values()]
    one = [_seconds(summary["metrics"][label]) for label in picked["runs"]]
    between = selection["by_rho"]["difference"]
    gain = (between["mean"], *between["interval_95"]) if between and between.get("interval_95") else None
    against = next(iter(selection["selected"]))
    return Tuned(
        pick=selection["selected"],
        rows=rows,
        metric=metric,
        gain=gain,
        runs=sum(spent) / (sum(one) / len(one)),
        directory=directory.path,
        figure=directory.figures / f"{metric}-by-{against}.png".replace("_", "-"),
    )


def _row(entry: JsonObject, metric: str) -> dict[str, SettingValue]:
    found = entry["metrics"].get(metric, {"mean": float("nan"), "standard_error": None})
    error = found["standard_error"]
    return {**entry["settings"], metric: found["mean"], "standard_error": float("nan") if error is None else error}


def _seconds(run: JsonObject) -> float:
    return sum(value for name, value in run.items() if name.endswith("_seconds"))
