"""What several commands print."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from lowland.commands.layout import Column, layout, wrap
from lowland.streams import speaks_utf8

VERDICTS = {True: "holds", False: "fails", None: "undecided"}


def flows(title: str) -> Column:
    """A column of running text."""
    return Column(title, flows=True)


def table(columns: Sequence[Column | str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, as wide as the terminal; in a file or a pipe each row is one line."""
    made = [Column(column) if isinstance(column, str) else column for column in columns]
    typer.echo("\n".join(layout(made, rows, _width(), _strong)) + "\n")


def say(text: str) -> None:
    """A sentence on stdout, on a terminal broken between words only."""
    width = _width()
    typer.echo(text if width is None else "\n".join(wrap(text, width)))


def place(kind: str, path: Path) -> None:
    """Where something is, on stdout: a path that doesn't fit beside its kind has a line of its own."""
    width, line = _width(), f"{kind + ':':8} {path}"
    typer.echo(line if width is None or len(line) <= width else f"{kind}:\n{path}")


def heading(path: Path, text: str) -> None:
    """A path, and beside or below it what of it is meant, on stdout."""
    width, line = _width(), f"{path}, {text}" if text else str(path)
    typer.echo(line if width is None or len(line) <= width or not text else f"{path}\n{text}")


def _width() -> int | None:
    """Of the terminal; None where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _strong(text: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else typer.style(text, bold=True)


def print_json(value: Any) -> None:
    """JSON on stdout, in letters that its encoding has."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not speaks_utf8(sys.stdout)))


def short(value: Any) -> str:
    """A number in few digits; how many there are of a list."""
    if isinstance(value, list | tuple):
        return f"{len(value)} values"
    return f"{value:g}" if isinstance(value, float) else str(value)


def estimate(entry: dict[str, Any] | None) -> str:
    """``0.12 ± 0.01``: a mean with its standard error, where there is one."""
    if entry is None:
        return ""
    error = entry["standard_error"]
    return f"{entry['mean']:.4g}" + ("" if error is None else f" ± {error:.2g}")


def print_rows(summary: dict[str, Any]) -> None:
    """The experiment's table, if it has one: mean and standard error over seeds, and how many there are."""
    rows = [row for row in summary.get("table", []) if row["measures"]]
    columns = dict.fromkeys(name for row in rows for name in row["measures"])
    if rows:
        table(
            ["", "seeds", *columns],
            [
                [row["name"], str(len(row["runs"])), *(estimate(row["measures"].get(name)) for name in columns)]
                for row in rows
            ],
        )


def costs(scales: Sequence[str], cost: Mapping[str, str]) -> str:
    """``smoke: seconds; laptop: a minute, 2 cores``."""
    return "; ".join(f"{scale}: {cost[scale]}" if scale in cost else scale for scale in scales)
