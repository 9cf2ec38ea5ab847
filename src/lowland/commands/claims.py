"""How `lowland run` and `lowland sweep` print claims: measured and published values, verdicts, deciding commands."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from lowland.commands.layout import Column
from lowland.commands.printing import VERDICTS, flows, say, short, table, verdicts


def print_claims(claims: Sequence[Mapping[str, Any]], costs: Mapping[str, str]) -> None:
    """Print a table of a run's claims, and the commands that decide the undecided ones.

    Args:
        claims: the claims of a summary.
        costs: what a run takes at each scale, in words.
    """
    rows = [
        [claim["id"], claim["text"], measured(claim), paper(claim), claim["threshold"] or "", verdict(claim),
         claim["reason"]]
        for claim in claims
    ]  # fmt: skip
    _table(rows, [flows("holds if"), verdicts()], 3)
    print_deciding(claims, costs)


def print_claims_over_grid(claims: Sequence[Mapping[str, Any]], costs: Mapping[str, str]) -> None:
    """Print the same for a sweep's claims, with the number of points at which each holds."""
    rows = []
    for claim in claims:
        holds = _where(claim["counts"])
        ours = measured(claim) if claim["at_each_point"] == claim["threshold"] else ""
        shown = VERDICTS[claim["passed"]] if claim["at_each_point"] else "reported"
        rows.append([claim["id"], claim["text"], ours, paper(claim), claim["at_each_point"] or "", holds, shown,
                     claim["reason"]])  # fmt: skip
    _table(rows, [flows("holds if"), flows("holds at"), verdicts()], 3)
    print_deciding(claims, costs)


def _where(counts: Mapping[str, int]) -> str:
    """At how many points a claim holds, and of the others at how many it fails or is undecided."""
    fails, undecided = counts["judged"] - counts["holds"], counts["points"] - counts["judged"]
    rest = [f"{count} {what}" for count, what in ((fails, "fails"), (undecided, "undecided")) if count]
    return f"{counts['holds']} of {counts['points']}" + (f" ({', '.join(rest)})" if rest else "")


def _table(rows: Sequence[Sequence[str]], middle: Sequence[Column | str], reference: int) -> None:
    """Print claims as a table; without the paper's column if it would be empty."""
    if not rows:
        return
    columns = ["claim", flows("what it says"), "measured", flows("in the paper"), *middle, flows("reason")]
    if not any(row[reference] for row in rows):
        columns = columns[:reference] + columns[reference + 1 :]
        rows = [[*row[:reference], *row[reference + 1 :]] for row in rows]
    table(columns, rows)


def measured(claim: Mapping[str, Any]) -> str:
    """The measured value in four digits; empty if there is none."""
    return "" if claim["measured"] is None else f"{claim['measured']:.4g}"


def paper(claim: Mapping[str, Any]) -> str:
    """The paper's value and where the paper states it; empty if unknown."""
    reference = claim.get("reference")
    return "" if reference is None else f"{short(reference['value'])} ({reference['where']})"


def verdict(claim: Mapping[str, Any]) -> str:
    """*holds*, *fails* or *undecided*; *reported* for a claim without a threshold."""
    return VERDICTS[claim["passed"]] if claim["threshold"] or claim["passed"] is not None else "reported"


def print_deciding(claims: Sequence[Mapping[str, Any]], costs: Mapping[str, str]) -> None:
    """Print each command that decides undecided claims, with their names and what it takes."""
    commands: dict[str, tuple[str, list[str]]] = {}
    for claim in claims:
        if (by := claim.get("decided_by")) is not None:
            commands.setdefault(by["command"], (by["scale"], []))[1].append(claim["id"])
    for command, (scale, names) in commands.items():
        takes = costs.get(scale) if command.startswith("lowland run") else None
        say(f"{', '.join(names)}: decided at {scale} scale" + (f" ({takes}):" if takes else ":"))
        typer.echo(f"  {command}")
    if commands:
        typer.echo()
