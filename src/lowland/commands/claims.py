"""How `lowland run` and `lowland sweep` print claims: measured and published values, verdicts, deciding commands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from lowland.commands.layout import Column
from lowland.commands.printing import flows, say, short, table, verdicts
from lowland.wording import measured_of, place_of, verdict_of


def print_claims(claims: Sequence[Mapping[str, Any]], costs: Mapping[str, str]) -> None:
    """Print a table of a run's claims, and the commands that decide the undecided ones.

    Args:
        claims: the claims of a summary.
        costs: what a run takes at each scale, in words.
    """
    _table(claims, [])
    print_deciding(claims, costs)


def print_claims_over_grid(claims: Sequence[Mapping[str, Any]], costs: Mapping[str, str]) -> None:
    """Print the same for a sweep's claims: the verdict, at which settings it is, and then where else each holds."""
    _table(claims, [(flows("at"), place_of), (flows("over the grid"), lambda claim: claim.get("over_grid", ""))])
    print_deciding(claims, costs)


def _table(claims: Sequence[Mapping[str, Any]], more: Sequence[tuple[Column, Callable[[Any], str]]]) -> None:
    """Print claims as a table; without the columns that would be empty, such as the paper's."""
    columns: list[tuple[Column, Callable[[Any], str]]] = [
        (Column("claim"), lambda claim: str(claim["id"])),
        (flows("what it says"), lambda claim: str(claim["text"])),
        (flows("measured (95 % interval)"), measured_of),
        (flows("in the paper"), paper),
        (flows("holds if"), lambda claim: claim["threshold"] or ""),
        (verdicts(), verdict_of),
        *more,
        (flows("reason"), lambda claim: str(claim["reason"])),
    ]
    shown = [(column, cells) for column, cell in columns if any(cells := [cell(claim) for claim in claims])]
    if shown:
        table([column for column, _ in shown], list(zip(*(cells for _, cells in shown), strict=True)))


def paper(claim: Mapping[str, Any]) -> str:
    """The paper's value and where the paper states it; empty if unknown."""
    reference = claim.get("reference")
    return "" if reference is None else f"{short(reference['value'])} ({reference['where']})"


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
