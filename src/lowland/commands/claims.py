"""How `lowland run` and `lowland sweep` print claims: measured and published values, verdicts, deciding commands."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from lowland.commands.layout import Column
from lowland.commands.printing import flows, say, table, verdicts
from lowland.wording import claim_columns


def print_claims(claims: Sequence[Mapping[str, Any]], costs: Mapping[str, str]) -> None:
    """Print a table of the claims of a run or sweep, and the commands that decide the undecided ones.

    Args:
        claims: the claims of a summary.
        costs: what a run takes at each scale, in words.
    """
    columns = claim_columns(claims)
    special = {"claim": Column("claim"), "verdict": verdicts()}
    if columns:
        table([special.get(title) or flows(title) for title in columns], list(zip(*columns.values(), strict=True)))
    print_deciding(claims, costs)


def print_deciding(claims: Sequence[Mapping[str, Any]], costs: Mapping[str, str]) -> None:
    """Print each command that decides undecided claims, with their names and what it takes."""
    commands: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for claim in claims:
        if (by := claim.get("decided_by")) is not None:
            commands.setdefault(by["command"], (by, []))[1].append(claim["id"])
    for command, (by, names) in commands.items():
        takes = costs.get(by["scale"]) if command.startswith("lowland run") else None
        which = "with the settings of its own, which were changed here" if by.get("changed") else ""
        about = ", ".join(filter(None, (which, takes)))
        say(f"{', '.join(names)}: decided at {by['scale']} scale" + (f" ({about}):" if about else ":"))
        typer.echo(f"  {command}")
    if commands:
        typer.echo()
