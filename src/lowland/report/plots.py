"""Figures of panels, those of differences below what they are the differences of."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.report.canvas import legend_below, save, style
from lowland.report.coincidence import difference, extent, without_equals
from lowland.report.panels import Legend, colours_of, draw_bars, draw_panel, share_axes, shown
from lowland.training import Bars, Outcome, Panel, Plot

_LETTER = 0.075  # inches of a letter in the heading
Drawable = Panel | Bars
Said = tuple[Drawable | None, str]  # a panel and what its heading says beside its note; None for a gap


def draw_plot(directory: Path, plot: Plot, outcomes: Mapping[str, Outcome], title: str) -> Path | None:
    """Draw ``plot`` as PNG and PDF under ``directory``; returns the PNG's path, or None if there is nothing to draw.

    See `draw_figure`.
    """
    return draw_figure(directory, plot.name, f"{plot.title} ({title})", plot.panels(outcomes), plot.columns)


def draw_figure(
    directory: Path, name: str, heading: str, panels: Sequence[Drawable], columns: int = 3
) -> Path | None:  # fmt: skip
    """Draw panels as PNG and PDF under ``directory``; returns the PNG's path, or None if none has anything to draw.

    Lines with the same label or tint have the same colour in all panels. Lines without one are grey, and so are those
    whose label has no colour left. Logarithmic axes leave out values that aren't positive. What `Panel` says of axes,
    equal lines and differences is done here.
    """
    from matplotlib.figure import Figure as Canvas

    panels = [panel for panel in panels if _has_values(panel)]
    if not panels:
        return None
    columns = min(len(panels), columns)
    rows = _rows(panels, columns)
    with style():
        canvas = Canvas(figsize=(max(3.4 * columns, 4.2), 2.7 * len(rows) + 0.5), layout="constrained")
        axes = canvas.subplots(len(rows), columns, squeeze=False)
        colours, legend = colours_of(panels), Legend()
        drawn: list[tuple[Any, Drawable]] = []
        for places, row in zip(axes, rows, strict=True):
            for axis, (panel, said) in zip(places, row, strict=True):
                if panel is None:
                    axis.set_visible(False)
                    continue
                if isinstance(panel, Bars):
                    draw_bars(axis, panel, colours, legend)
                else:
                    draw_panel(axis, panel, colours, legend, said)
                drawn.append((axis, panel))
        share_axes(drawn)
        legend_below(canvas, legend.entries)
        canvas.suptitle("\n".join(textwrap.wrap(heading, int(canvas.get_figwidth() / _LETTER))), fontsize=10)
        return save(canvas, directory, name)


def _has_values(panel: Drawable) -> bool:
    if isinstance(panel, Bars):
        return any(height is not None for heights in panel.heights.values() for height in heights)
    return bool(shown(panel))


def _rows(panels: Sequence[Drawable], columns: int) -> list[list[Said]]:
    """The panels row by row, and below each row that has some the differences."""
    cleared = [(panel, "") if isinstance(panel, Bars) else without_equals(panel) for panel in panels]
    rows = list[list[Said]]()
    for first in range(0, len(cleared), columns):
        row: list[Said] = [*cleared[first : first + columns]]
        below: list[Said] = [(_below(panel, panels), "") for panel, _ in row]
        for each in (row, below):
            if any(panel is not None for panel, _ in each):
                rows.append([*each, *[(None, "")] * (columns - len(each))])
    return rows


def _below(panel: Drawable | None, panels: Sequence[Drawable]) -> Panel | None:
    """The panel of the differences in ``panel``, if it is to have one."""
    if not isinstance(panel, Panel) or not panel.against:
        return None
    same = panel.ylabel, panel.logy
    beside = [each for each in panels if isinstance(each, Panel) and (each.ylabel, each.logy) == same]
    over = extent(beside, panel.logy)
    return difference(panel, over) if over is not None and over[0] < over[1] else None
