"""`lowland list` and `lowland show`: what there is."""

from typing import Annotated, Any

import typer

from lowland.commands.options import Json, Name
from lowland.commands.printing import flows, print_json, say, short, table


def list_(json_: Json = False) -> None:
    """Every experiment: name, paper, scales, datasets.

    Example: lowland list --json
    """
    from lowland.papers import experiments

    rows: list[dict[str, Any]] = [
        {
            "name": e.name,
            "title": e.title,
            "paper": e.paper,
            "scales": e.scales_in_order,
            "datasets": list(e.datasets),
            "arms": list(e.arms),
        }
        for e in experiments().values()
    ]
    if json_:
        print_json(rows)
        return
    table(
        ["name", flows("what it is"), flows("scales"), flows("datasets")],
        [[r["name"], r["title"], " ".join(r["scales"]), " ".join(r["datasets"]) or "(no download)"] for r in rows],
    )
    for paper in dict.fromkeys(r["paper"] for r in rows):
        say(paper)


def show(
    name: Name,
    scale: Annotated[str | None, typer.Option(help="Only this scale: smoke, laptop, desk or paper.")] = None,
) -> None:
    """An experiment's settings, where each comes from, and the claims it checks.

    Example: lowland show long2024/mnist --scale laptop
    """
    from lowland.papers import find
    from lowland.training.settings import describe

    experiment = find(name)
    scales = [scale] if scale else experiment.scales_in_order
    values = {s: experiment.values(s) for s in scales}
    say(f"{experiment.name}: {experiment.title}")
    say(experiment.paper)
    say(f"datasets: {' '.join(experiment.datasets) or 'none to download'}")
    say(f"expected: {'; '.join(f'{s} {experiment.cost[s]}' for s in scales)}")
    typer.echo()
    rows = []
    for key, text in describe(experiment.settings).items():
        cells = [f"{short(values[s][key].value)} ({values[s][key].origin})" for s in scales]
        notes = dict.fromkeys(values[s][key].note for s in scales if values[s][key].note)
        rows.append([key, text, *cells, "; ".join(notes)])
    table(["setting", flows("what it is"), *map(flows, scales), flows("note")], rows)
    table(
        ["arm", flows("what makes it")],
        [[a, ", ".join(f"{k} = {short(v)}" for k, v in fixed.items()) or "the settings above"]
         for a, fixed in experiment.arms.items()],
    )  # fmt: skip
    for grid, parts in experiment.grids.items():
        for number, part in enumerate(parts, 1):
            title = f"--grid {grid}" + (f", part {number} of {len(parts)}" if len(parts) > 1 else "")
            if part:
                table([title, flows("values")], [[k, " ".join(map(short, v))] for k, v in part.items()])
    table(
        ["claim", flows("what it says"), flows("holds if"), flows("source")],
        [[c.id, c.text, c.threshold or "(reported only)", c.source] for c in experiment.claims],
    )
