"""The command line. Every command parses, calls one function of the library, and prints."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lowland import __version__
from lowland.errors import ElsewhereError, LowlandError

app = typer.Typer(
    name="lowland",
    help="Sharpness-aware training: re-run the papers that explain it.\n\nBegin with: lowland run long2024/digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="Datasets: what is here, fetch what is not, read and check everything.\n\nExample: lowland data fetch mnist",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

_SET_HELP = "Change a setting in every arm that leaves it open, or in one: ARM.KEY=VALUE. May be repeated."
_INTERRUPTED = 130
_INTERRUPTION = "interrupted; the same command goes on where it stopped"
_VERDICTS = {True: "true", False: "FALSE", None: "not reached"}
_ENGINE_HELP = (
    "vectorized: many runs as one program; process: a run a worker process; ray: on a cluster "
    "[default: vectorized where the runs can be, else process]."
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Experiment, as `lowland list` prints it.")]
DatasetName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Dataset; all of them by default.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lowland {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(json_: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False) -> None:
    """Every experiment: name, paper, scales, datasets.

    Example: lowland list --json
    """
    from lowland.papers import experiments

    rows: list[dict[str, Any]] = [
        {
            "name": e.name,
            "title": e.title,
            "paper": e.paper,
            "scales": list(e.scales),
            "datasets": list(e.datasets),
            "arms": list(e.arms),
        }
        for e in experiments().values()
    ]
    if json_:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    _table(
        ["name", "what it is", "scales", "datasets"],
        [[r["name"], r["title"], " ".join(r["scales"]), " ".join(r["datasets"]) or "(no download)"] for r in rows],
    )
    for paper in dict.fromkeys(r["paper"] for r in rows):
        typer.echo(paper)


@app.command()
def show(
    name: Name,
    scale: Annotated[str | None, typer.Option(help="Only this scale: smoke, laptop or paper.")] = None,
) -> None:
    """An experiment's settings, where each comes from, and the claims it checks.

    Example: lowland show long2024/mnist --scale laptop
    """
    from lowland.papers import find
    from lowland.training.settings import describe

    experiment = find(name)
    scales = [scale] if scale else list(experiment.scales)
    values = {s: experiment.values(s) for s in scales}
    typer.echo(f"{experiment.name}: {experiment.title}\n{experiment.paper}")
    typer.echo(f"datasets: {' '.join(experiment.datasets) or 'none to download'}")
    typer.echo(f"expected: {'; '.join(f'{s} {experiment.cost[s]}' for s in scales)}\n")
    rows = []
    for key, text in describe(experiment.settings).items():
        cells = [f"{_short(values[s][key].value)} ({values[s][key].origin})" for s in scales]
        notes = dict.fromkeys(values[s][key].note for s in scales if values[s][key].note)
        rows.append([key, text, *cells, "; ".join(notes)])
    _table(["setting", "what it is", *scales, "note"], rows)
    _table(
        ["arm", "what makes it"],
        [[a, ", ".join(f"{k} = {_short(v)}" for k, v in fixed.items()) or "the settings above"]
         for a, fixed in experiment.arms.items()],
    )  # fmt: skip
    for grid, parts in experiment.grids.items():
        for number, part in enumerate(parts, 1):
            title = f"--grid {grid}" + (f", part {number} of {len(parts)}" if len(parts) > 1 else "")
            if part:
                _table([title, "values"], [[k, " ".join(map(_short, v))] for k, v in part.items()])
    _table(
        ["claim", "what it says", "holds if", "source"],
        [[c.id, c.text, c.threshold or "(reported only)", c.source] for c in experiment.claims],
    )


@app.command()
def run(
    name: Name,
    scale: Annotated[str, typer.Option(help="smoke (seconds), laptop (two minutes) or paper.")] = "laptop",
    out: Annotated[Path | None, typer.Option(help="Run directory [default: runs/NAME/SCALE-...].")] = None,
    seed: Annotated[str | None, typer.Option(help="Short for --set seed=N.", metavar="N")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a claim fails.")] = False,
) -> None:  # fmt: skip
    """Train every arm of an experiment, judge its claims, draw its figures.

    The same command on an unfinished run goes on where it stopped.

    Over many devices: torchrun --nproc-per-node 2 -m lowland.cli run long2024/digits, and each takes its share of
    every batch.

    Example: lowland run long2024/digits --set rho=0.2 --seed 1
    """
    from lowland import training

    with training.world() as processes:
        experiment, arms, directory, chosen = processes.together(
            lambda: _asked(name, scale, out, seed, device, set_ or [], processes)
        )
        with processes.inside(directory):
            summary = processes.first(directory.summary)
            if summary is None:
                trained = training.train(experiment, arms, directory, chosen, processes=processes)
                summary = processes.first(lambda: _conclude(experiment, arms, directory, chosen, trained))
            elif processes.leads:
                typer.echo(f"{directory.path} is finished; remove it, or choose another --out, to run again")
        processes.first(lambda: _report(directory, experiment, summary))
    if strict and any(claim["passed"] is False for claim in summary["claims"]):
        raise typer.Exit(1)


def _asked(
    name: str, scale: str, out: Path | None, seed: str | None, device: str, assignments: list[str], processes: Any
) -> tuple[Any, Any, Any, Any]:
    """The experiment, its arms' settings, the run directory and the device that `run` was asked for."""
    from lowland import training
    from lowland.papers import find

    experiment = find(name)
    changes = training.parse_assignments(assignments)
    if seed is not None:
        if "seed" in changes:
            raise LowlandError("--seed and --set seed=… say the same thing: give one of them")
        changes["seed"] = seed
    if out is not None and not out.name:
        raise LowlandError(f"--out needs the name of a folder, not {str(out)!r}")
    arms = experiment.configure(scale, changes)
    chosen = processes.place(training.choose_device(device))
    directory = training.RunDirectory(
        out or _default_directory(name, scale, changes),
        training.configuration(experiment, scale, arms, chosen, processes.count),
    )
    return experiment, arms, directory, chosen


def _conclude(experiment: Any, arms: Any, directory: Any, device: Any, trained: Any) -> dict[str, Any]:
    """Draw, judge and write down what was trained."""
    from lowland import report, training

    report.draw_run(directory.figures, experiment, trained)
    summary = training.summarize(experiment, directory.config, trained, device)
    directory.conclude(summary)
    return summary


@app.command()
def evaluate(
    name: Name,
    weights: Annotated[Path, typer.Argument(help="Run directory, or a file with a state_dict.")],
    arm: Annotated[
        str | None, typer.Option(help="Of the run directory; for a file: whose settings to take [default: the first].")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Of a file with several state_dicts [default: last].")] = None,
    scale: Annotated[
        str, typer.Option(help="smoke, laptop or paper: the settings, and so the network, of a file.")
    ] = "paper",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Measure weights as an experiment's checks do: those of a run, or of a file in the layout of the paper's code.

    Example: lowland evaluate andriushchenko2022/cifar10 resnet18.pth --set norm=group --set examples=5000
    """
    from lowland import evaluating, training
    from lowland.papers import find

    changes = training.parse_assignments(set_ or [])
    experiment, chosen = find(name), training.choose_device(device)
    settings, label = evaluating.settings_for(experiment, weights, arm, scale, changes)
    record = evaluating.measure(experiment, settings, weights, label, key, chosen)
    if json_:
        typer.echo(json.dumps(record, indent=2))
    else:
        typer.echo(f"{weights}{f', arm {label}' if label else ''}")
        _table(["measure", "value"], [[column, _short(value)] for column, value in record.items()])


Grid = Annotated[
    str, typer.Option(help="paper, or another that `lowland show NAME` prints, or a JSON file.", metavar="paper|FILE")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Worker processes of --engine process [default: one a core, or a GPU].")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster of --engine ray [default: one is started here].")]
Halving = Annotated[
    int | None,
    typer.Option(
        min=2, metavar="N",
        help="Successive halving: at steps T/N, T/N², ... only the best 1/N of the settings go on. "
        "It changes what is compared.",
    ),
]  # fmt: skip


@app.command()
def sweep(
    name: Name,
    grid: Grid = "paper",
    scale: Annotated[str, typer.Option(help="smoke, laptop or paper: what the grid leaves alone.")] = "laptop",
    out: Annotated[Path | None, typer.Option(help="Sweep directory [default: runs/NAME/sweep-SCALE-...].")] = None,
    engine: Annotated[str | None, typer.Option(help=_ENGINE_HELP, metavar="vectorized|process|ray")] = None,
    workers: Workers = None,
    address: Address = None,
    halving: Halving = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every run.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a claim fails.")] = False,
) -> None:
    """Train every point of a grid; select the best settings, judge the claims over the grid, draw figures.

    A grid file holds values for any settings, {"rho": [0, 0.05], "lr": [0.1], "seed": [0, 1, 2]}, or a list of such.
    The same command on an unfinished sweep goes on with what is missing, and a grid that has grown adds the new runs.

    Example: lowland sweep long2024/digits --grid paper --out runs/digits
    """
    from lowland import sweeping, training
    from lowland.papers import find

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise LowlandError("a sweep starts processes of its own: run it without torchrun, with --engine process or ray")
    experiment = find(name)
    changes = training.parse_assignments(set_ or [])
    if out is not None and not out.name:
        raise LowlandError(f"--out needs the name of a folder, not {str(out)!r}")
    base = sweeping.base_settings(experiment, scale, changes)
    points = sweeping.choose_grid(experiment, grid, base, changes)
    chosen = training.choose_device(device)
    used = sweeping.choose_engine(engine, experiment, points, chosen.type, workers, address)
    training.sweep.common_rungs(experiment, points, halving)  # refused before anything is written
    directory = training.RunDirectory(
        out or _default_directory(name, f"sweep-{scale}", changes),
        sweeping.configuration(experiment, scale, base, chosen),
    )
    with directory:
        summary = sweeping.finished_summary(directory, points, halving)
        if summary is not None:
            typer.echo(
                f"{directory.path} is finished; a grid with more points adds them. "
                "Remove it, or choose another --out, to run again"
            )
        else:
            because = f", because {used.why}" if used.why else ""
            typer.echo(f"{len(points.points)} runs, engine {used.name}{because}", err=True)
            summary = sweeping.run_sweep(experiment, scale, points, directory, chosen, used, halving)
    _report_sweep(directory, summary)
    totals = summary["totals"]
    if totals["failed"]:
        error = next(metrics["error"] for metrics in summary["metrics"].values() if metrics["status"] == "failed")
        raise LowlandError(
            f"{totals['failed']} of {totals['runs']} runs failed: {error}; the same command tries them again"
        )
    if totals["diverged"] == totals["runs"]:
        raise LowlandError("every run diverged: try smaller values of lr")
    if strict and any(claim["passed"] is False for claim in summary["claims"]):
        raise typer.Exit(1)


def _report_sweep(directory: Any, summary: dict[str, Any]) -> None:
    rows = []
    selection, totals = summary["selection"], summary["totals"]
    metric = selection.get("metric")
    for entry in summary["settings"]:
        estimate = entry["metrics"].get(metric) if metric else None
        mark = "selected" if entry["settings"] == selection["selected"] else ""
        rows.append([*map(_short, entry["settings"].values()), _estimate(estimate), _counts(entry), mark])
    if rows:
        _table([*summary["settings"][0]["settings"], metric or "", "runs", ""], rows)
    _print_table(summary)
    if summary["scale"] == "smoke":
        typer.echo("a smoke sweep judges no claims")
    else:
        _print_grid_claims(summary)
    _print_selection(selection)
    seconds = totals["seconds"]
    compiling = seconds.get("compile_seconds", 0)
    of_which = f", {compiling:.1f} s of it compiling" if compiling else ""
    typer.echo(f"{totals['runs']} runs: {_counts(totals)}, in {seconds['total']:.1f} s{of_which}")
    for kind, path in (("table", directory.path / "results.csv"), ("figures", directory.figures)):
        typer.echo(f"{kind + ':':9}{path}")
    typer.echo(f"summary: {directory.path / 'summary.json'}")


def _print_grid_claims(summary: dict[str, Any]) -> None:
    rows = []
    for claim in summary["claims"]:
        counts, verdict = claim["counts"], _VERDICTS[claim["passed"]]
        holds = f"{counts['holds']} of {counts['judged']} points" if counts["judged"] else ""
        rows.append(
            [claim["id"], claim["text"], claim["at_each_point"] or "(reported)", holds, verdict, claim["reason"]]
        )
    _table(["claim", "what it says", "holds if", "holds at", "everywhere", "reason"], rows)


def _print_selection(selection: dict[str, Any]) -> None:
    if selection["selected"] is None:
        typer.echo(f"nothing is selected: {selection['reason']}")
        return
    chosen = ", ".join(f"{key} = {_short(value)}" for key, value in selection["selected"].items())
    metric, on = selection["metric"], selection["on"]
    typer.echo(f"selected: {chosen}: the lowest mean {metric} over seeds, on {on} data (the whole rule: summary.json)")
    between = selection["by_rho"]["difference"]
    if between is not None:
        low, high = between["interval_95"] or (float("nan"), float("nan"))
        spread = "" if between["n"] < 2 else f", 95 % interval {low:.2g} to {high:.2g}"
        mean, seeds = between["mean"], between["n"]
        typer.echo(f"best with SAM minus best without: {metric} {mean:+.2g}, paired over {seeds} seeds{spread}")


def _counts(entry: dict[str, Any]) -> str:
    """``4 done, 1 diverged``."""
    statuses = ("done", "diverged", "stopped", "failed")
    return ", ".join(f"{entry[status]} {status}" for status in statuses if entry[status])


def _estimate(entry: dict[str, Any] | None) -> str:
    """``0.12 ± 0.01``: a mean with its standard error, where there is one."""
    if entry is None:
        return ""
    error = entry["standard_error"]
    return f"{entry['mean']:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _default_directory(name: str, scale: str, changes: dict[str, str]) -> Path:
    """A folder of its own for each scale and each set of changes, so that the same command finds its run again."""
    folder = "-".join([scale, *(f"{key}={value}" for key, value in sorted(changes.items()))]).replace(os.sep, "_")
    if len(folder.encode()) > 200:
        raise LowlandError("so many settings make too long a folder name: choose one with --out")
    return Path("runs") / name / folder


def _print_claims(summary: dict[str, Any]) -> None:
    rows = []
    for claim in summary["claims"]:
        measured = "" if claim["measured"] is None else f"{claim['measured']:.4g}"
        verdict = _VERDICTS[claim["passed"]] if claim["threshold"] or claim["passed"] is not None else "reported"
        rows.append([claim["id"], claim["text"], measured, claim["threshold"] or "", verdict, claim["reason"]])
    _table(["claim", "what it says", "measured", "holds if", "verdict", "reason"], rows)


def _print_table(summary: dict[str, Any]) -> None:
    """The experiment's table, if it has one: mean and standard error over seeds, and how many there are."""
    rows = [row for row in summary.get("table", []) if row["measures"]]
    columns = dict.fromkeys(name for row in rows for name in row["measures"])
    if rows:
        _table(
            ["", "seeds", *columns],
            [
                [row["name"], str(len(row["runs"])), *(_estimate(row["measures"].get(name)) for name in columns)]
                for row in rows
            ],
        )


def _report(directory: Any, experiment: Any, summary: dict[str, Any]) -> None:
    _print_table(summary)
    _print_claims(summary)
    if divergences := _divergences(summary):
        typer.echo(f"diverged: {divergences}")
    figure = directory.figures / f"{experiment.figures[0].name}.png"
    if figure.exists():
        typer.echo(f"figure:  {figure}  ({len(experiment.figures)} in {directory.figures}, PNG and PDF)")
    typer.echo(f"summary: {directory.path / 'summary.json'}")
    if all(summary["metrics"][arm]["status"] == "diverged" for arm in summary["config"]["arms"]):
        raise LowlandError(f"every arm diverged: {divergences}; try a smaller --set lr=…")


def _divergences(summary: dict[str, Any]) -> str:
    return ", ".join(
        f"{arm} at step {summary['metrics'][arm]['diverged_at']}"
        for arm in summary["config"]["arms"]
        if summary["metrics"][arm]["status"] == "diverged"
    )


@data_app.command("status")
def data_status() -> None:
    """What is here, and where.

    Example: LOWLAND_DATA=~/data lowland data status
    """
    from lowland import data

    _table(
        ["dataset", "state", "MB", "licence", "where"],
        [
            [
                s.name,
                s.state,
                "" if s.bytes is None else f"{s.bytes / 1e6:.1f}",
                s.licence,
                str(s.path or "")
                if s.fetchable or s.state == "ready"
                else f"can't be fetched: place the publisher's files at {s.path}",
            ]
            for s in data.status()
        ],
    )


@data_app.command("fetch")
def data_fetch(name: DatasetName = None) -> None:
    """Download what is missing, verified by checksum; an interrupted download goes on.

    Example: lowland data fetch mnist
    """
    from lowland import data

    for one in _datasets(name):
        paths = data.fetch(one)
        typer.echo(f"{one}: {', '.join(map(str, paths)) or 'nothing to fetch'}")


@data_app.command("verify")
def data_verify(name: DatasetName = None) -> None:
    """Read everything and say what is wrong.

    Example: lowland data verify cifar-10
    """
    from lowland import data

    problems = {one: data.verify(one) for one in _datasets(name)}
    for one, found in problems.items():
        typer.echo("\n".join(found) if found else f"{one}: fine")
    count = sum(map(len, problems.values()))
    if count:
        raise LowlandError(
            f"{count} problem{'s' if count > 1 else ''}; fetch again with `lowland data fetch NAME`, or mend what you "
            "placed there"
        )


def _datasets(name: str | None) -> list[str]:
    from lowland import data
    from lowland.data.registry import source

    if name:
        return [source(name).name]
    # Who has not placed a dataset that can't be fetched doesn't want it.
    return [status.name for status in data.status() if status.fetchable or status.state != "missing"]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(header: list[str], rows: list[list[str]]) -> None:
    """A table on stdout, as wide as the terminal; a fixed width where there is none."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)


def main() -> None:
    """Run the command line; an error that the user can mend is one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
        if code == _INTERRUPTED:  # typer's own way to end at Ctrl-C
            _fail_alike(_INTERRUPTION)
    except ElsewhereError:
        code = 2
    except LowlandError as error:
        code = _fail(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        code = _fail(
            f"{error.strerror or error}{where}: mend that and run the same command; it goes on where it stopped"
        )
    except KeyboardInterrupt:
        code = _fail_alike(_INTERRUPTION, _INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        code = _fail(f"out of memory ({next(iter(str(error).splitlines()), '')}): try a smaller scale or settings")
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()  # typer's own: a bad option or argument, or no command
        if message.startswith("Usage:"):
            typer.echo(message)
            code = 2
        else:
            code = _fail_alike(message)
    sys.exit(code)


def _fail_alike(message: str, code: int = 2) -> int:
    """`_fail` with what each process of a run would say: the first does."""
    from lowland.training.parallel import quiet

    return code if quiet() else _fail(message, code)


def _fail(message: str, code: int = 2) -> int:
    typer.echo("lowland: " + " ".join(message.split()), err=True)
    return code


if __name__ == "__main__":
    main()
