"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from lowland.errors import LowlandError

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
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def check_out(out: Path | None) -> None:
    """Raise LowlandError for a path without a name, such as ``/``."""
    if out is not None and not out.name:
        raise LowlandError(f"--out needs the name of a folder, not {str(out)!r}")


def default_directory(name: str, scale: str, changes: dict[str, str]) -> Path:
    """The default run directory: one for each scale and set of changes, so that the same command finds its run."""
    folder = "-".join([scale, *(f"{key}={value}" for key, value in sorted(changes.items()))]).replace(os.sep, "_")
    if len(os.fsencode(folder)) > 200:
        raise LowlandError("so many settings make too long a folder name: choose one with --out")
    return Path("runs") / name / folder
