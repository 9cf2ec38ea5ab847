"""The commands, one file each: a command parses its options, calls the library, and prints."""

from collections.abc import Sequence
from typing import Annotated

import typer

from lowland import __version__
from lowland.commands import data, evaluate, listing, new, report, run, show, sweep
from lowland.errors import UsageError

app = typer.Typer(
    name="lowland",
    help="Sharpness-aware training: re-run the papers that explain it.\n\nBegin with: lowland run long2024/digits",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def call(arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` name; returns its exit code.

    Raises:
        UsageError: for arguments that are no valid command.
        Exception: whatever the command raises, `KeyboardInterrupt` too.
    """
    command = typer.main.get_command(app)
    try:
        # Not typer's own `main`: it turns Ctrl-C and closed pipes into exit codes without a message.
        with command.make_context("lowland", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if not message.startswith("Usage:"):
            raise UsageError(message) from None
        typer.echo(message)  # no command was given: print the help
        return 2
    return 0


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lowland {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("list")(listing.list_)
app.command("show")(show.show)
app.command("run")(run.run)
app.command("evaluate")(evaluate.evaluate)
app.command("sweep")(sweep.sweep)
app.command("new")(new.new)
app.command("report")(report.report)
app.add_typer(data.app, name="data")
