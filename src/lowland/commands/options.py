"""Options that several commands share."""

from typing import Annotated

import typer

SET_HELP = "Change a setting in every arm that leaves it open, or in one: ARM.KEY=VALUE. May be repeated."
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE.py",
        help="Experiment, as `lowland list` prints it, or a file that has one; FILE.py:NAME if it has several.",
    ),
]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one, else the CPU), cpu, cuda or mps.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if a claim fails.")]
LogTo = Annotated[
    str | None,
    typer.Option("--log", metavar="tensorboard|wandb|jsonl", help="Where the records go beside the directory."),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
