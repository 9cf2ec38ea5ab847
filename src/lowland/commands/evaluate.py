"""`lowland evaluate`: measures given weights as an experiment measures its own."""

from pathlib import Path
from typing import Annotated

import typer

from lowland.commands.options import Device, Json, Name
from lowland.commands.printing import heading, print_json, say, short, table


def evaluate(
    name: Name,
    weights: Annotated[Path, typer.Argument(help="Run directory, or a file with a state_dict.")],
    arm: Annotated[
        str | None, typer.Option(help="Of the run directory; for a file: whose settings to take [default: the first].")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Of a file with several state_dicts [default: last].")] = None,
    scale: Annotated[
        str, typer.Option(help="smoke, laptop, desk or paper: the settings, and so the network, of a file.")
    ] = "paper",
    device: Device = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")] = None,
    json_: Json = False,
) -> None:
    """Measure weights as an experiment's checks do: those of a run, or of a file in the layout of the paper's code.

    Example: lowland evaluate andriushchenko2022/cifar10 resnet18.pth --set norm=group --set examples=5000
    """
    from lowland import training
    from lowland.experiments import find
    from lowland.training import measuring

    changes = training.parse_assignments(set_ or [])
    experiment, chosen = find(name), training.choose_device(device)
    settings, label = measuring.settings_for(experiment, weights, arm, scale, changes)
    record = measuring.measure(experiment, settings, weights, label, key, chosen)
    if json_:
        print_json(record)
        return
    heading(weights, f"arm {label}" if label else "")
    table(["measure", "value"], [[column, short(value)] for column, value in record.items()])
    if any(isinstance(value, list) for value in record.values()):
        say("--json prints all values")
