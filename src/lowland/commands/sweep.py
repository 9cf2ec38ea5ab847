"""`lowland sweep`: trains every point of a grid, selects settings, judges claims, draws figures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lowland.commands.claims import print_claims
from lowland.commands.layout import Column
from lowland.commands.options import Device, LogTo, Name, Strict
from lowland.commands.printing import estimate, flows, place, place_log, print_rows, say, table
from lowland.errors import LowlandError
from lowland.launched import launched
from lowland.patience import doing
from lowland.wording import describe, interval_of, mark_of, short, spread_of, trend_of, worsened_of

_ENGINE_HELP = (
    "vectorized: many runs as one program; process: a run a worker process; ray: on a cluster "
    "[default: vectorized where the runs can be, else process]."
)
Grid = Annotated[
    str | None,
    typer.Option(help="One that `lowland show NAME` prints, or a JSON file [default: the first].", metavar="GRID|FILE"),
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


def sweep(
    name: Name,
    grid: Grid = None,
    scale: Annotated[str, typer.Option(help="smoke, laptop, desk or paper: what the grid leaves alone.")] = "laptop",
    out: Annotated[Path | None, typer.Option(help="Sweep directory [default: runs/NAME/sweep-SCALE-...].")] = None,
    engine: Annotated[str | None, typer.Option(help=_ENGINE_HELP, metavar="vectorized|process|ray")] = None,
    workers: Workers = None,
    address: Address = None,
    halving: Halving = None,
    device: Device = "auto",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every run.")
    ] = None,
    log: LogTo = None,
    strict: Strict = False,
) -> None:
    """Train every point of a grid; select the best settings, judge the claims over the grid, draw figures.

    A grid file holds values for any settings, {"rho": [0, 0.05], "lr": [0.1], "seed": [0, 1, 2]}, or a list of such.
    The same command on an unfinished sweep goes on with what is missing, and a grid that has grown adds the new runs.

    Example: lowland sweep long2024/digits --grid paper --out runs/digits
    """
    from lowland import training
    from lowland.experiments import find, running, sweeping

    if launched():
        raise LowlandError("a sweep starts processes of its own: run it without torchrun, with --engine process or ray")
    experiment = find(name)
    changes = training.parse_assignments(set_ or [])
    chosen = sweeping.AskedEngine(engine, workers, address)
    with doing("looking at what the runs have in common", elsewhere=True):
        asked = sweeping.ask(experiment, scale, out, grid, changes, device, chosen, halving=halving, log=log)
    directory = asked.directory
    with directory:
        summary = sweeping.finished_summary(asked)
        if summary is not None:
            say(
                f"{directory.path} is finished; a grid with more points adds them. "
                "Remove it, or choose another --out, to run again"
            )
        else:
            place("sweep directory", directory.path)
            if directory.anew:
                say(directory.anew)
            place_log(asked)
            if note := running.shortened(experiment, scale):
                say(note)
            used = asked.engine
            because = f", because {used.why}" if used.why else ""
            typer.echo(f"{len(asked.grid.points)} runs, engine {used.name}{because}", err=True)
            if beyond := sweeping.arms_beyond(asked):
                say(f"not trained, because the grid has no such point: {', '.join(beyond)} of the experiment's arms")
            summary = sweeping.run_sweep(asked)
    _report(directory, summary)
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


def _report(directory: Any, summary: dict[str, Any]) -> None:
    rows = []
    selection, totals = summary["selection"], summary["totals"]
    metric = selection.get("metric")
    costs = {
        title: [entry.get(key) for entry in summary["settings"]]
        for title, key in (("gradients", "cost_in_gradients"), ("time", "cost_in_time"))
    }
    costs = {title: values for title, values in costs.items() if any(value is not None for value in values)}
    for index, entry in enumerate(summary["settings"]):
        measured = entry["metrics"].get(metric) if metric else None
        times = ["–" if values[index] is None else f"{values[index]:.3g}" for values in costs.values()]
        rows.append([*map(short, entry["settings"].values()), estimate(measured), *times, _runs(entry, measured),
                     mark_of(entry["settings"], selection)])  # fmt: skip
    if rows:
        names = summary["settings"][0]["settings"]
        columns: list[Column | str] = [*names, metric or "", *costs, flows("runs"), ""]
        table(columns, rows)
    if costs:
        time = ". time: what a step takes, likewise" if "time" in costs else ""
        say(f"gradients: what a run takes, in units of the shortest run without SAM; compare at equal cost, too{time}")
    print_rows(summary)
    if summary["scale"] == "smoke":
        say("a smoke sweep judges no claims")
    else:
        print_claims(summary["claims"], {})
    _print_selection(selection, [entry["settings"] for entry in summary["settings"]])
    _print_differences(summary)
    seconds = totals["seconds"]
    compiling = seconds.get("compile_seconds", 0)
    of_which = f", {compiling:.1f} s of it compiling" if compiling else ""
    say(f"{totals['runs']} runs: {_counts(totals)}, in {seconds['total']:.1f} s{of_which}")
    if worsened := worsened_of(summary):
        say(worsened)
    for kind, path in (("table", directory.path / "results.csv"), ("figures", directory.figures)):
        place(kind, path)
    place("summary", directory.path / "summary.json")


def _print_differences(summary: dict[str, Any]) -> None:
    """Print differences to ρ = 0 at each point, and their trend with ρ. First metric only: the summary has all."""
    metrics = summary.get("differences", {}).get("metrics", {})
    if not metrics:
        return
    metric, found = next(iter(metrics.items()))
    names = found["points"][0]["settings"]
    rows = [
        [*map(short, point["settings"].values()), estimate(point["difference"]), interval_of(point["difference"]),
         "–" if point["p_holm"] is None else f"{point['p_holm']:.2g}", _told(point)]
        for point in found["points"]
    ]  # fmt: skip
    table([*names, f"{metric} less ρ = 0", "95 % interval", "p (Holm)", flows("verdict")], rows)
    for trend in found["trends"]:
        say(trend_of(metric, trend))


def _told(point: dict[str, Any]) -> str:
    lost = point["diverged"] if point["difference"] is not None else 0
    told = str(point["verdict"])
    if told in ("below", "above") and not point["stands"]:
        told += ", not when corrected"
    if point["reason"]:
        told += f": {point['reason']}"
    return f"{told}, {lost} diverged" if lost else told


def _print_selection(selection: dict[str, Any], grid: list[dict[str, Any]]) -> None:
    from lowland.report.grid_end import said_at_end

    if selection["selected"] is None:
        say(f"nothing is selected: {selection['reason']}")
        return
    chosen = describe(selection["selected"])
    metric, on = selection["metric"], selection["on"]
    say(f"selected: {chosen}: the lowest mean {metric} over seeds, on {on} data (the whole rule: summary.json)")
    if tied := selection.get("tied", {}).get("text"):
        say(tied)
    if end := said_at_end(selection["selected"], grid):
        say(end)
    test, sides = selection["test"], selection["by_rho"]
    if test["mean"] is not None:
        say(f"on test data, by which nothing is selected: {test['metric']} {estimate(test)}")
    between = sides["difference"]
    if between is not None:
        with_sam, without = (describe(sides[side]["settings"]) for side in ("with_sam", "without_sam"))
        what = f"best with SAM ({with_sam}) minus best without ({without})"
        say(f"{what}: {metric} {between['mean']:+.2g}, paired by seed, {spread_of(between)}")


def _runs(entry: dict[str, Any], measured: dict[str, Any] | None) -> str:
    """`_counts` of a row, and how many of its runs have a value where others that are done have none."""
    n = entry["done"] if measured is None else measured.get("n", entry["done"])
    return _counts(entry) + (f", {n} with a value" if n < entry["done"] else "")


def _counts(entry: dict[str, Any]) -> str:
    """How many runs ended in which way, as in ``4 done, 1 diverged``."""
    statuses = ("done", "diverged", "stopped", "failed")
    return ", ".join(f"{entry[status]} {status}" for status in statuses if entry[status])
