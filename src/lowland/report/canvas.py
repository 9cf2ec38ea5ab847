"""What all figures share: style, axis labels, legends, saving."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

from lowland.errors import SettingError
from lowland.files import write_atomically
from lowland.wording import short

# Okabe & Ito's palette, which the colour-blind can tell apart, also in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


def style() -> AbstractContextManager[Any]:
    """The matplotlib style, as a context in which to make and save figures."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def save(canvas: Any, directory: Path, name: str) -> Path:
    """Write a figure as PNG and PDF, with the same bytes each time; returns the PNG's path.

    Raises:
        SettingError: if $SOURCE_DATE_EPOCH, which matplotlib reads for a PDF, is no number.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not epoch.isdecimal():
        raise SettingError(f"$SOURCE_DATE_EPOCH is a number of seconds, not {epoch!r}: unset it, and run this again")
    for suffix, options in ((".png", {"dpi": 160}), (".pdf", {"metadata": {"CreationDate": None}})):
        content = BytesIO()
        canvas.savefig(content, format=suffix[1:], **options)
        write_atomically(directory / f"{name}{suffix}", content.getbuffer())
    return directory / f"{name}.png"


def plain_logarithm(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers: 0.5 instead of 5e-01."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    for ticks in (axis.set_major_formatter, axis.set_minor_formatter):
        ticks(Plain(minor_thresholds=(1.5, 0.6)))


def legend_below(canvas: Any, handles: Sequence[Any]) -> None:
    """Put a legend below the figure, in as many columns as fit; the figure grows by its height."""
    if handles:
        widest = max(len(handle.get_label()) for handle in handles)
        room = int(canvas.get_figwidth() / (0.65 + 0.062 * widest))  # inches of a line with its gap, and of a letter
        columns = min(max(room, 1), len(handles))
        rows = -(-len(handles) // columns)
        canvas.set_figheight(canvas.get_figheight() + 0.17 * (rows - 1))
        canvas.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, columnspacing=1.4)


def label_positions(which: Any, values: Sequence[Any], room: float | None = None) -> None:
    """Label the positions 0, 1, ... of an axis with ``values``, slanted if they don't fit into ``room`` inches."""
    labels = [short(value) for value in values]
    which.set_ticks(range(len(labels)), labels)
    if room is not None and max(map(len, labels)) * 0.085 * len(labels) > room:
        for label in which.get_ticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
