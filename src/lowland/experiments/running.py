"""What `lowland run` does: trains every arm of an experiment into a directory, judges its claims, draws its figures."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowland import report, training
from lowland.errors import SettingError
from lowland.training import Alone, Experiment, RunDirectory, Settings, registry
from lowland.training.logs import Log

_LONGEST = 200  # bytes of a folder's name


@dataclass(frozen=True)
class AskedRun:
    """A run that is asked for.

    Attributes:
        experiment: which.
        scale: of its settings.
        arms: name → settings.
        directory: not entered yet.
        device: to train on.
        log: where records go, too.
    """

    experiment: Experiment
    scale: str
    arms: Mapping[str, Settings]
    directory: RunDirectory
    device: torch.device
    log: Log | None = None


def ask(
    experiment: Experiment, scale: str, out: str | os.PathLike[str] | None, device: str, changes: Mapping[str, Any],
    processes: Alone, log: str | None = None,
) -> AskedRun:  # fmt: skip
    """Check what is asked for; nothing is written.

    Args:
        experiment: which.
        scale: of its settings.
        out: run directory; None for `default_directory`.
        device: by its name.
        changes: the user's settings.
        processes: that train together.
        log: the kind of a log.

    Raises:
        SettingError: for an unknown scale, setting or device, a bad value, or an ``out`` without a name.
    """
    arms = experiment.configure(scale, changes)
    chosen = processes.place(training.choose_device(device))
    path = directory_for(experiment, scale, out, changes)
    config = training.configuration(experiment, scale, arms, chosen, processes.count)
    to = None if log is None else Log.beside(log, experiment.name, path)
    return AskedRun(experiment, scale, arms, RunDirectory(path, config, to), chosen, to)


def shortened(experiment: Experiment, scale: str) -> str:
    """What a smoke run of an experiment of one's own changes, in words; empty for other scales and the papers'."""
    if scale != "smoke" or not experiment.settings.defaults:
        return ""
    whole, short = experiment.values("paper"), experiment.values("smoke")
    changed = [
        f"{name} = {short[name].value} in place of {whole[name].value}"
        for name in short
        if short[name].value != whole[name].value
    ]
    arms = experiment.arms_at(scale)
    changed += [
        f"{arm}.{name} = {arms[arm][name]} in place of {value}"
        for arm, fixed in experiment.arms.items()
        for name, value in fixed.items()
        if arms[arm][name] != value
    ]
    return f"a smoke run only shows that it works: {', '.join(changed)}" if changed else ""


def finished_summary(asked: AskedRun) -> dict[str, Any] | None:
    """The summary of a finished run, judged by the experiment's file as it is now; else None.

    Where claims or titles have changed since, `train` judges and draws anew, of the records that are there.

    Raises:
        RunError: for a damaged directory.
    """
    summary = asked.directory.summary()
    if summary is None or registry.source(asked.experiment).get("source") != summary.get("source"):
        return None
    return summary


def train(asked: AskedRun, processes: Alone) -> dict[str, Any]:
    """Train every arm from where the directory, which is entered, stands; draw, judge, and return the summary.

    Raises:
        RunError: for a directory that can't be used.
        SettingError: for a batch of fewer examples than there are processes.
    """
    experiment, directory = asked.experiment, asked.directory
    what = training.description(experiment, asked.scale, asked.arms)
    processes.first(lambda: training.write_description(directory, what))
    trained = training.train(experiment, asked.arms, directory, asked.device, processes=processes)

    def conclude() -> dict[str, Any]:
        with experiment.calling("figures"):
            report.draw_run(directory.figures, experiment, trained)
        return directory.conclude(training.summarize(experiment, directory.config, trained, asked.device))

    return processes.first(conclude)


def directory_for(
    experiment: Experiment, scale: str, out: str | os.PathLike[str] | None, changes: Mapping[str, Any]
) -> Path:
    """``out``, or by default one folder for each experiment, scale and set of changes, so that it is found again.

    Args:
        experiment: which.
        scale: of its settings, and what else is to stand in the folder's name before the changes.
        out: as the user said it.
        changes: the user's settings.

    Raises:
        SettingError: for a path without a name, such as ``/``; for so many changes that the name would be too long; for
            an experiment without a name.
    """
    if out is not None:
        if not Path(out).name:
            raise SettingError(f"--out needs the name of a folder, not {str(out)!r}")
        return Path(out)
    if not experiment.name:
        raise SettingError("the experiment has no name, by which its folder is called: say name=, or out=")
    folder = "-".join([scale, *(f"{key}={value}" for key, value in sorted(changes.items()))]).replace(os.sep, "_")
    if len(os.fsencode(folder)) > _LONGEST:
        raise SettingError("so many settings make too long a folder name: choose one with --out")
    return Path("runs") / experiment.name / folder
