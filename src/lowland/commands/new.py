"""`lowland new`: writes a file with an experiment to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from lowland.commands.printing import place


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="To write; it must not be there yet.")],
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Start from this experiment, as `lowland list` prints it."),
    ] = None,
) -> None:
    """Write an experiment of your own, whole and running, to change: SAM against SGD on handwritten digits.

    With --from it is one of the papers', which the file imports, with the lines that are usually changed.

    Example: lowland new my_experiment.py
    """
    from lowland.experiments.new import write_new

    write_new(file, start)
    place("wrote", file)
    typer.echo(f"it runs as it is:  lowland run {file}\nover its grid:     lowland sweep {file}")
