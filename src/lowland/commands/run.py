"""`lowland run`: trains every arm of an experiment, judges its claims, draws its figures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lowland.commands.claims import print_claims
from lowland.commands.options import SET_HELP, Device, Json, LogTo, Name, Strict
from lowland.commands.printing import place, place_log, print_json, print_rows, say
from lowland.errors import LowlandError
from lowland.wording import worsened_of


def run(
    name: Name,
    scale: Annotated[
        str, typer.Option(help="smoke (seconds), laptop (minutes), desk (an evening at most) or paper.")
    ] = "laptop",
    out: Annotated[Path | None, typer.Option(help="Run directory [default: runs/NAME/SCALE-...].")] = None,
    seed: Annotated[str | None, typer.Option(help="Short for --set seed=N.", metavar="N")] = None,
    device: Device = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    log: LogTo = None,
    strict: Strict = False,
    json_: Json = False,
) -> None:
    """Train every arm of an experiment, judge its claims, draw its figures.

    The same command on an unfinished run goes on where it stopped.

    Over many devices: torchrun --nproc-per-node 2 -m lowland run long2024/digits, and each takes its share of
    every batch.

    Example: lowland run long2024/digits --set rho=0.2 --seed 1
    """
    from lowland import training
    from lowland.experiments import running

    with training.world() as processes:
        asked = processes.together(lambda: _asked(name, scale, out, seed, device, set_ or [], log, processes))
        directory = asked.directory
        with processes.inside(directory):
            summary = processes.first(lambda: running.finished_summary(asked))
            if summary is None:
                if processes.leads and json_:
                    typer.echo(f"run directory: {directory.path}", err=True)
                    if directory.anew:
                        typer.echo(directory.anew, err=True)
                elif processes.leads:
                    place("run directory", directory.path)
                    if directory.anew:
                        say(directory.anew)
                    if (directory.path / "summary.json").exists():
                        say("it is trained; the file has changed since: claims and figures are made anew")
                    place_log(asked)
                    if note := running.shortened(asked.experiment, asked.scale):
                        say(note)
                summary = running.train(asked, processes)
            elif processes.leads and not json_:
                say(f"{directory.path} is finished; remove it, or choose another --out, to run again")
        processes.first(lambda: _report(directory, asked.experiment, summary, json_))
    if strict and any(claim["passed"] is False for claim in summary["claims"]):
        raise typer.Exit(1)


def _asked(
    name: str,
    scale: str,
    out: Path | None,
    seed: str | None,
    device: str,
    assignments: list[str],
    log: str | None,
    processes: Any,
) -> Any:
    """What the options of `run` ask for, a `lowland.experiments.running.AskedRun`."""
    from lowland import training
    from lowland.experiments import find, running

    experiment = find(name)
    changes = training.parse_assignments(assignments)
    if seed is not None:
        if "seed" in changes:
            raise LowlandError("--seed and --set seed=… say the same thing: give one of them")
        changes["seed"] = seed
    return running.ask(experiment, scale, out, device, changes, processes, log)


def _report(directory: Any, experiment: Any, summary: dict[str, Any], json_: bool = False) -> None:
    from lowland.training.files import finite

    divergences = _divergences(summary)
    if json_:
        print_json(finite(summary))
    else:
        _print(directory, experiment, summary, divergences)
    if all(summary["metrics"][arm]["status"] == "diverged" for arm in summary["config"]["arms"]):
        # Before the first step lr has done nothing yet.
        begun = any(summary["metrics"][arm]["diverged_at"] for arm in summary["config"]["arms"])
        remedy = (
            "try a smaller --set lr=…"
            if begun
            else "look for NaN or infinity in the data, and in what the network gives"
        )
        raise LowlandError(f"every arm diverged: {divergences}; {remedy}")


def _print(directory: Any, experiment: Any, summary: dict[str, Any], divergences: str) -> None:
    print_rows(summary)
    print_claims(summary["claims"], experiment.cost)
    if divergences:
        say(f"diverged: {divergences}")
    if worsened := worsened_of(summary):
        say(worsened)
    figure = directory.figures / f"{experiment.figures[0].name}.png"
    if figure.exists():
        place("figure", figure)
        place("figures", directory.figures)
    place("summary", directory.path / "summary.json")


def _divergences(summary: dict[str, Any]) -> str:
    return ", ".join(
        f"{arm} at step {summary['metrics'][arm]['diverged_at']}"
        for arm in summary["config"]["arms"]
        if summary["metrics"][arm]["status"] == "diverged"
    )
