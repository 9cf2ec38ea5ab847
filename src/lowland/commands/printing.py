"""Output that several commands share: tables, paths, numbers, JSON."""

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
from lowland.wording import seeds_of

_COLOURS = {"holds": typer.colors.GREEN, "fails": typer.colors.RED, "undecided": typer.colors.YELLOW}


def flows(title: str) -> Column:
    """A column of running text, which may be wrapped."""
    return Column(title, flows=True)


def verdicts() -> Column:
    """A column of verdicts, in colours on terminals that show them."""
    return Column("verdict", paint=_coloured)


def table(columns: Sequence[Column | str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, fitted to the terminal; in a file or a pipe each row is one line."""
    made = [Column(column) if isinstance(column, str) else column for column in columns]
    typer.echo("\n".join(layout(made, rows, _width(), _strong)) + "\n")


def say(text: str) -> None:
    """Print a sentence, wrapped between words on a terminal."""
    width = _width()
    typer.echo(text if width is None else "\n".join(wrap(text, width)))


def place(kind: str, path: Path) -> None:
    """Print ``kind`` and a path; if both don't fit on one line, the path has its own."""
    width, line = _width(), f"{kind + ':':8} {path}"
    typer.echo(line if width is None or len(line) <= width else f"{kind}:\n{path}")


def place_log(asked: Any) -> None:
    """Print where the log of a run or sweep lies; nothing without one."""
    if asked.log is not None:
        place("log", asked.directory.path / asked.log.folder.name)


def heading(path: Path, text: str) -> None:
    """Print a path and ``text`` about it; if both don't fit on one line, the text has its own."""
    width, line = _width(), f"{path}, {text}" if text else str(path)
    typer.echo(line if width is None or len(line) <= width or not text else f"{path}\n{text}")


def _width() -> int | None:
    """The terminal's width; None if stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _strong(text: str) -> str:
    return typer.style(text, bold=True) if _styled() else text


def _coloured(verdict: str) -> str:
    colour = _COLOURS.get(verdict)
    return typer.style(verdict, fg=colour) if colour and _styled() else verdict


def _styled() -> bool:
    """Whether stdout is a terminal that shows bold and colours, and nobody has asked for none."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def print_json(value: Any) -> None:
    """Print JSON; other characters than ASCII are escaped if stdout can't encode them."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not speaks_utf8(sys.stdout)))


def short(value: Any) -> str:
    """A number in few digits; for a list, how many values it has."""
    if isinstance(value, list | tuple):
        return f"{len(value)} values"
    return f"{value:g}" if isinstance(value, float) else str(value)


def estimate(entry: dict[str, Any] | None) -> str:
    """``0.12 ± 0.01``: a mean with its standard error, if it has one."""
    if entry is None:
        return ""
    error = entry["standard_error"]
    return f"{entry['mean']:.4g}" + ("" if error is None else f" ± {error:.2g}")


def print_rows(summary: dict[str, Any]) -> None:
    """Print the experiment's table, if it has one: mean and standard error over seeds, and the number of seeds."""
    rows = [row for row in summary.get("table", []) if row["measures"]]
    columns = dict.fromkeys(name for row in rows for name in row["measures"])
    if rows:
        table(
            ["", "seeds", *columns],
            [
                [
                    row["name"],
                    seeds_of(len(row["runs"]), row["measures"].values()),
                    *(estimate(row["measures"].get(name)) for name in columns),
                ]
                for row in rows
            ],
        )


def costs(scales: Sequence[str], cost: Mapping[str, str]) -> str:
    """What a run takes at each scale, as ``smoke: seconds; laptop: a minute, 2 cores``."""
    return "; ".join(f"{scale}: {cost[scale]}" if scale in cost else scale for scale in scales)
