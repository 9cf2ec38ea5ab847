"""Running and sweeping from Python: what the commands of the same names do, with the directory as an object."""

import os
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from lowland import training
from lowland.errors import ExperimentError
from lowland.experiments import running, sweeping
from lowland.experiments.result import Result
from lowland.training import Experiment, RunDirectory, registry
from lowland.training.user_file import refuse_inside_a_file

P = ParamSpec("P")
T = TypeVar("T")
Which = str | os.PathLike[str] | Experiment


def own_errors(call: Callable[P, T]) -> Callable[P, T]:
    """``call``, out of which comes what a function of the experiment raises, with a note that says which failed."""

    @wraps(call)
    def calling(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except ExperimentError as error:
            raised = error.__cause__
            assert raised is not None
            raised.add_note(str(error))
        raise raised  # out here, for a context of its own

    return calling


@own_errors
def run(
    experiment: Which, /, *, scale: str = "laptop", out: str | os.PathLike[str] | None = None, device: str = "auto",
    log: str | None = None, **settings: Any,
) -> Result:  # fmt: skip
    """Train every arm of an experiment, judge its claims, draw its figures: as `lowland run` does.

    The same call on an unfinished directory goes on where it stopped, on a finished one it gives what is there.

    Args:
        experiment: its name, ``"FILE.py"``, ``"FILE.py:NAME"``, or the experiment itself.
        scale: ``"smoke"``, ``"laptop"``, ``"desk"`` or ``"paper"``.
        out: run directory; by default one under ``runs`` for each experiment, scale and set of settings.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        log: where the records go, too: ``"tensorboard"``, ``"wandb"`` or ``"jsonl"``.
        settings: by name, ``rho=0.2``; those of a single arm as ``**{"sam.rho": 0.2}``.

    Raises:
        SettingError: for an unknown experiment, scale, device or setting, or a bad value.
        RunError: for a directory that can't be used, or holds a run of another configuration or of other code.
        Exception: what a function of the experiment raises, with a note that says which.

    Warns:
        UserWarning: if ``out`` was interrupted before its first checkpoint, and begins anew since code or settings have
            changed.
    """
    refuse_inside_a_file()
    with training.world() as processes:
        asked = processes.together(lambda: running.ask(found(experiment), scale, out, device, settings, processes, log))
        with processes.inside(asked.directory):
            _warn_if_anew(asked.directory)
            if processes.first(lambda: running.finished_summary(asked)) is None:
                running.train(asked, processes)
    return Result(asked.directory.path)


@own_errors
def sweep(
    experiment: Which, /, *, grid: str | sweeping.Parts | None = None, scale: str = "laptop",
    out: str | os.PathLike[str] | None = None, engine: str | None = None, workers: int | None = None,
    address: str | None = None, halving: int | None = None, device: str = "auto", log: str | None = None,
    **settings: Any,
) -> Result:  # fmt: skip
    """Train every point of a grid, select the best settings, judge claims, draw figures: as `lowland sweep` does.

    The same call on an unfinished sweep goes on with what is missing, and a grid that has grown adds the new runs.

    Args:
        experiment: as `run` takes it. One that is made in a notebook can't be found by other processes, and is trained
            in this one.
        grid: the name of one of the experiment's grids or of a JSON file; or the values themselves,
            ``{"rho": [0, 0.05, 0.1], "seed": range(3)}``, or a list of such. By default the experiment's first.
        scale: what the grid leaves alone.
        out: sweep directory; by default one under ``runs``.
        engine: ``"vectorized"``, ``"process"`` or ``"ray"``; by default vectorized where the runs can be.
        workers: processes of the engine.
        address: of a Ray cluster.
        halving: at steps T/N, T/N², ... only the best 1/N of the settings go on.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        log: as in `run`.
        settings: of every run, by name.

    Raises:
        SettingError: for what can't be swept, or a bad value.
        RunError: for a directory that can't be used, or holds a sweep of another configuration or of other code.
        Exception: what ``build`` raises for the first run; later runs that raise one have failed.

    Warns:
        UserWarning: if runs failed, with the reason of the first; the same call tries them again. As `run` does, too.
    """
    refuse_inside_a_file()
    chosen = sweeping.AskedEngine(engine, workers, address)
    asked = sweeping.ask(
        found(experiment), scale, out, grid, settings, device, chosen, halving=halving, log=log
    )  # fmt: skip
    with asked.directory:
        _warn_if_anew(asked.directory)
        summary = sweeping.finished_summary(asked) or sweeping.run_sweep(asked)
    failed = [metrics["error"] for metrics in summary["metrics"].values() if metrics["status"] == "failed"]
    if failed:
        warnings.warn(f"{len(failed)} of {summary['totals']['runs']} runs failed: {failed[0]}", stacklevel=2)
    return Result(asked.directory.path)


def _warn_if_anew(directory: RunDirectory) -> None:
    if directory.anew:
        warnings.warn(directory.anew, stacklevel=3)


def found(experiment: Which) -> Experiment:
    """The experiment itself, by its name or its file; one without a name is given that of its variable."""
    if not isinstance(experiment, Experiment):
        return registry.find(os.fspath(experiment))
    registry.call(experiment)
    return experiment
