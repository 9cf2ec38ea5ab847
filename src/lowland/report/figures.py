"""Figures of a run, from its records alone."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from lowland.training import Figure
from lowland.training.files import write_atomically

# Okabe & Ito's palette: told apart by the colour-blind, and in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
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


def draw(
    directory: Path,
    figures: Sequence[Figure],
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    labels: Mapping[str, str],
    title: str,
) -> list[Path]:
    """Draw each figure as PNG and PDF under ``directory``, a panel for each arm.

    Args:
        directory: made if need be.
        figures: what to draw.
        records: of each arm, in the order of steps.
        labels: what stands above each arm's panel.
        title: of the experiment; stands above every figure.

    Returns:
        The PNG files, in the order of ``figures``.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for figure in figures:
        with mpl.rc_context(_STYLE):
            canvas = Canvas(figsize=(max(3.4 * len(records), 4.2), 3.1), layout="constrained")
            axes = canvas.subplots(1, len(records), squeeze=False)[0]
            for axis, (arm, lines) in zip(axes, records.items(), strict=True):
                _panel(axis, figure, lines)
                axis.set_title(labels[arm], fontsize=9)
            axes[0].set_ylabel(figure.ylabel)
            canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
            canvas.suptitle(f"{figure.title} ({title})", fontsize=10)
            for suffix, options in ((".png", {"dpi": 160}), (".pdf", {"metadata": {"CreationDate": None}})):
                content = BytesIO()
                canvas.savefig(content, format=suffix[1:], **options)
                write_atomically(directory / f"{figure.name}{suffix}", content.getbuffer())
        drawn.append(directory / f"{figure.name}.png")
    return drawn


def _panel(axis: Any, figure: Figure, lines: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """Labels where matplotlib would put them, but as 0.5 rather than 5e-01."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    for curve, colour in zip(figure.curves, _COLOURS, strict=False):
        points = [(line["step"], line[curve.column]) for line in lines if line.get(curve.column) is not None]
        if points:
            marker = "o" if len(points) == 1 else ""
            axis.plot(*zip(*points, strict=True), curve.style + marker, color=colour, label=curve.label)
    axis.set_xlabel("step")
    if figure.log:
        axis.set_yscale("log")
        for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticks(Plain(minor_thresholds=(1.5, 0.6)))
    else:
        axis.set_ylim(0, 1.02)
