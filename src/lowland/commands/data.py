"""`lowland data`: shows, downloads and verifies datasets."""

from pathlib import Path
from typing import Annotated

import typer

from lowland.commands.printing import flows, place, say, table
from lowland.errors import LowlandError

app = typer.Typer(
    help="Datasets: what is here, fetch what is not, read and check everything.\n\nExample: lowland data fetch mnist",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DatasetName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Dataset; all of them by default.")]


@app.command("status")
def status(name: DatasetName = None) -> None:
    """What is here, and where.

    Example: LOWLAND_DATA=~/data lowland data status
    """
    from lowland import data

    wanted = _datasets(name) if name else None
    found = [one for one in data.status() if wanted is None or one.name in wanted]
    table(
        ["dataset", "state", "MB", flows("licence"), "where"],
        [
            [s.name, s.state, "" if s.bytes is None else f"{s.bytes / 1e6:.1f}", s.licence, str(s.path or "")]
            for s in found
        ],
    )
    placed = [s.name for s in found if not s.fetchable and s.state != "ready"]
    if placed:
        say(f"can't be fetched: place the publisher's files at the paths above: {' '.join(placed)}")


@app.command("fetch")
def fetch(name: DatasetName = None) -> None:
    """Download what is missing, verified by checksum; an interrupted download goes on.

    Example: lowland data fetch mnist
    """
    from lowland import data

    states = {status.name: status for status in data.status()}
    for one in _datasets(name):
        if states[one].fetchable and states[one].state != "ready":
            place(f"{one}, fetching into", states[one].path or Path())
        paths = data.fetch(one)
        for path in paths:
            place(one, path)
        if not paths:
            typer.echo(f"{one}: nothing to fetch")


@app.command("verify")
def verify(name: DatasetName = None) -> None:
    """Read everything and say what is wrong.

    Example: lowland data verify cifar-10
    """
    from lowland import data

    problems = {one: data.verify(one) for one in _datasets(name)}
    for one, found in problems.items():
        for text in found or [f"{one}: fine"]:
            say(text)
    count = sum(map(len, problems.values()))
    if count:
        raise LowlandError(
            f"{count} problem{'s' if count > 1 else ''}; remove what is damaged and run `lowland data fetch NAME`, or "
            "mend what you placed there"
        )


def _datasets(name: str | None) -> list[str]:
    from lowland import data
    from lowland.data.registry import source

    if name:
        return [source(name).name]
    # A dataset that can't be fetched and was not placed isn't wanted.
    return [status.name for status in data.status() if status.fetchable or status.state != "missing"]
