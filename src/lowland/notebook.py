"""A progress bar in a notebook's output, drawn over itself and not below."""

import sys
import time
from io import StringIO
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn

_EVERY = 0.5  # seconds between two drawings
_WIDTH = 100  # characters


def in_notebook() -> bool:
    """Whether this is a kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookProgress(Progress):
    """rich's bar as text in one output of the cell, renewed at most every half second.

    rich itself draws through ``ipywidgets``, which needn't be there, or prints a line for each drawing.
    """

    def __init__(self, *columns: str | ProgressColumn):
        # Disabled, as rich calls it: nothing is drawn on a terminal, and lines of their own go to stderr.
        console = Console(file=StringIO(), width=_WIDTH, force_jupyter=False, force_terminal=False, color_system=None)
        super().__init__(*columns, console=console, disable=True)
        self._handle: Any = None
        self._drawn = 0.0

    def start(self) -> None:
        """Draw it for the first time."""
        display = sys.modules["IPython"].display.display
        self._handle = display({"text/plain": self._text()}, raw=True, display_id=True)

    def stop(self) -> None:
        """Draw it as it ended."""
        self._draw()

    def update(self, *arguments: Any, **changes: Any) -> None:
        """See `rich.progress.Progress.update`."""
        super().update(*arguments, **changes)
        if self._handle is not None and time.monotonic() - self._drawn >= _EVERY:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._handle.update({"text/plain": self._text()}, raw=True)

    def _text(self) -> str:
        with self.console.capture() as captured:
            self.console.print(self.get_renderable())
        return captured.get().rstrip()
