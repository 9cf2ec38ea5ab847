"""Draws a `Plot`: panels of lines, levels and bars."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.report.canvas import COLOURS, label_positions, legend_below, plain_logarithm, save, style
from lowland.training import Bars, Outcome, Panel, Plot

_GREY = "#999999"


def draw_plot(directory: Path, plot: Plot, outcomes: Mapping[str, Outcome], title: str) -> Path | None:
    """Draw ``plot`` as PNG and PDF under ``directory``; returns the PNG's path, or None if there is nothing to draw.

    Lines with the same label have the same colour in all panels. Lines without a label are grey, and so are those whose
    label has no colour left. Logarithmic axes leave out values that aren't positive.
    """
    from matplotlib.figure import Figure as Canvas

    panels = [panel for panel in plot.panels(outcomes) if isinstance(panel, Bars) or panel.lines]
    if not panels:
        return None
    labels = dict.fromkeys(label for panel in panels for label in panel.labels)
    colours = dict(zip(labels, COLOURS, strict=False))
    columns = min(len(panels), plot.columns)
    rows = -(-len(panels) // columns)
    with style():
        canvas = Canvas(figsize=(max(3.4 * columns, 4.2), 2.7 * rows + 0.5), layout="constrained")
        axes = list(canvas.subplots(rows, columns, squeeze=False).flat)
        handles: dict[str, Any] = {}
        for axis, panel in zip(axes, panels, strict=False):
            handles |= _draw_bars(axis, panel, colours) if isinstance(panel, Bars) else _draw(axis, panel, colours)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        legend_below(canvas, list(handles.values()))
        canvas.suptitle(f"{plot.title} ({title})", fontsize=10)
        return save(canvas, directory, plot.name)


def _draw(axis: Any, panel: Panel, colours: Mapping[str, str]) -> dict[str, Any]:
    """Draw one panel; returns its legend entries by label."""
    handles = {}
    for line in panel.lines:
        x, y = (_numbers(values, log) for values, log in ((line.x, panel.logx), (line.y, panel.logy)))
        colour = colours.get(line.label or line.beside, _GREY)
        how: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.6} if line.beside else {}
        (drawn,) = axis.plot(x, y, line.style, color=colour, label=line.label or None, markersize=4, **how)
        if line.low:
            low, high = (_numbers(values, panel.logy) for values in (line.low, line.high))
            axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        if line.label in colours:
            handles[line.label] = drawn
    for level in panel.levels:
        handles[level.label] = axis.axhline(
            level.value, linestyle=":", linewidth=1.2, color=colours.get(level.beside, _GREY), label=level.label
        )
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlabel(panel.xlabel)
    axis.set_ylabel(panel.ylabel)
    for log, which in ((panel.logx, "x"), (panel.logy, "y")):
        if log:
            getattr(axis, f"set_{which}scale")("log")
            low, high = getattr(axis, f"get_{which}lim")()
            if high < 1e3 * low:  # over more decades, powers of ten are easier to read
                plain_logarithm(getattr(axis, f"{which}axis"))
    return handles


def _draw_bars(axis: Any, panel: Bars, colours: Mapping[str, str]) -> dict[str, Any]:
    """Draw one panel of bars; returns its legend entries by label."""
    handles = {}
    width = 0.8 / len(panel.labels)
    for number, label in enumerate(panel.labels):
        shift = (number - (len(panel.labels) - 1) / 2) * width
        positions = [index + shift for index in range(len(panel.names))]
        handles[label] = axis.bar(
            positions, _numbers(panel.heights[label], False), width, yerr=_numbers(panel.errors[label], False),
            color=colours.get(label, _GREY), label=label, error_kw={"elinewidth": 0.8, "capsize": 2},
        )  # fmt: skip
    axis.grid(False, axis="x")
    label_positions(axis.xaxis, panel.names, 3.4)
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlabel(panel.xlabel)
    axis.set_ylabel(panel.ylabel)
    return handles


def _numbers(values: Sequence[float | None], log: bool) -> list[float]:
    return [math.nan if value is None or (log and not value > 0) else value for value in values]
