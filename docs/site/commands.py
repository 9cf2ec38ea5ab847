"""The command line's page: what each command says with ``--help``."""

import io
import os
from contextlib import redirect_stdout
from pathlib import Path

from lowland import commands

COMMANDS = ("list", "show", "run", "sweep", "report", "evaluate", "new", "data")


def write(work: Path) -> None:
    """Write ``reference/commands.md``."""
    os.environ |= {"COLUMNS": "88", "TERMINAL_WIDTH": "88", "NO_COLOR": "1", "TERM": "dumb"}
    parts = ["# The command line\n", "What `lowland --help` and `lowland COMMAND --help` print.\n", _help()]
    for command in COMMANDS:
        parts += [f"## lowland {command}\n", _help(command)]
    (work / "reference" / "commands.md").write_text("\n".join(parts), encoding="utf-8")


def _help(*command: str) -> str:
    said = io.StringIO()
    with redirect_stdout(said):
        code = commands.call([*command, "--help"])
    if code:
        raise SystemExit(f"lowland {' '.join(command)} --help ends with {code}")
    return f"```text\n{said.getvalue().strip()}\n```\n"
