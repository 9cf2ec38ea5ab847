"""`lowland list`: prints every experiment."""

from typing import Any

import typer

from lowland.commands.options import Json
from lowland.commands.printing import costs, flows, print_json, say, table


def list_(json_: Json = False) -> None:
    """Every experiment: name, paper, scales, datasets.

    Example: lowland list --json
    """
    from lowland import experiments
    from lowland.papers import COSTS_ARE_OF

    every, problems = experiments.known()
    rows: list[dict[str, Any]] = [
        {
            "name": e.name,
            "title": e.title,
            "paper": e.paper,
            "scales": e.scales_in_order,
            "cost": {scale: e.cost[scale] for scale in e.scales_in_order if scale in e.cost},
            "datasets": list(e.datasets),
            "arms": list(e.arms),
        }
        for e in every.values()
    ]
    for problem in problems:
        typer.echo(f"lowland: {problem}", err=True)
    if json_:
        print_json(rows)
        return
    table(
        ["name", flows("what it is"), flows("scales, and what a run takes"), flows("datasets")],
        [
            [r["name"], r["title"], costs(r["scales"], r["cost"]), " ".join(r["datasets"]) or "(no download)"]
            for r in rows
        ],
    )
    say(COSTS_ARE_OF)
    for paper in dict.fromkeys(r["paper"] for r in rows if r["paper"]):
        say(paper)
    say("Your own: lowland new FILE.py writes a file with one, and lowland run FILE.py runs it.")
