"""A figure of single runs over two settings of a grid: a panel for each pair of values, on shared axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.report.axes import labelled, others, values_of
from lowland.report.canvas import legend_below, save, style
from lowland.report.coincidence import difference, extent, without_equals
from lowland.report.curves import panel_of
from lowland.report.panels import Legend, colours_of, draw_panel, share_axes
from lowland.training import Figure, Panel
from lowland.training.sweep.cells import Cell

_LARGEST = 10  # inches across or down
_LINE = 32  # characters in a line of a panel's heading

Placed = dict[tuple[Any, Any], tuple[Panel, str]]  # row and column → the panel, and what its heading says beside


def draw_panels(
    directory: Path, cells: Sequence[Cell], figure: Figure, best: Cell | None, title: str
) -> list[Path]:  # fmt: skip
    """Draw ``figure`` over the two settings that it names, as PNG and PDF; returns the PNG files.

    Each panel has the curves of its runs, over their seeds. If further settings vary, their values are those of
    ``best`` (of the first cell if nothing is selected), and the title names them. A diverged run is drawn up to where
    it diverged, and its panel says where. Where curves coincide, a second figure shows their differences. Nothing is
    drawn if the grid doesn't vary both settings, or no run has a record.
    """
    assert figure.over_grid is not None
    rows, columns = figure.over_grid
    varied = [name for name in figure.over_grid if cells and name in cells[0].settings]
    if len(varied) < 2 or min(len(values_of(cells, name)) for name in varied) < 2:
        return []
    rest = others(best or cells[0], (rows, columns))
    shown = [cell for cell in cells if others(cell, (rows, columns)) == rest]
    panels = {(cell.settings[rows], cell.settings[columns]): _panel(figure, cell, (rows, columns)) for cell in shown}
    found = {at: without_equals(panel) for at, panel in panels.items() if panel.lines}
    if not found:
        return []
    values = values_of(shown, rows), values_of(shown, columns)
    heading = f"{figure.title}{', ' + labelled(dict(rest)) if rest else ''}\n{title}"
    name = f"{figure.name}-over-{rows}-and-{columns}"
    drawn = [_draw(directory, name, heading, found, values, colours_of(list(panels.values())))]
    over = extent([panel for panel, _ in found.values()], figure.log)
    between = {at: difference(panel, over) for at, (panel, _) in found.items()} if over and over[0] < over[1] else {}
    differences = {at: (panel, "") for at, panel in between.items() if panel is not None}
    if differences:
        what = "ratios" if figure.log else "differences"
        colours = colours_of(list(panels.values()))
        drawn.append(_draw(directory, f"{name}-{what}", f"{what.title()}: {heading}", differences, values, colours))
    return drawn


def _panel(figure: Figure, cell: Cell, settings: Sequence[str]) -> Panel:
    runs = list(cell.runs.values())
    ends = [run.diverged_at for run in runs if run.diverged_at is not None]
    some = f"{len(ends)} of {len(runs)} " if len(runs) > 1 else ""
    note = f"{some}diverged at step {min(ends)}" if ends else ""
    records = {run.settings.seed: run.records for run in runs if run.records}
    return panel_of(figure, records, labelled({name: cell.settings[name] for name in settings}), note)


def _draw(
    directory: Path, name: str, heading: str, panels: Placed, values: tuple[Sequence[Any], Sequence[Any]],
    colours: Mapping[str, str],
) -> Path:  # fmt: skip
    from matplotlib.figure import Figure as Canvas

    down, across = values
    with style():
        size = (min(2.2 * len(across) + 0.6, _LARGEST), min(1.8 * len(down) + 0.9, _LARGEST))
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.subplots(len(down), len(across), squeeze=False)
        legend, drawn = Legend(), list[tuple[Any, Panel]]()
        for row, high in enumerate(down):
            for column, wide in enumerate(across):
                axis = axes[row][column]
                if (high, wide) not in panels:
                    axis.set_visible(False)
                    continue
                panel, said = panels[high, wide]
                draw_panel(axis, panel, colours, legend, said, _LINE)
                axis.title.set_fontsize(8)
                if down[row + 1 : row + 2] and (down[row + 1], wide) in panels:
                    axis.tick_params(labelbottom=False)
                    axis.xaxis.label.set_visible(False)
                if column and (high, across[column - 1]) in panels:
                    axis.tick_params(labelleft=False, which="both")
                    axis.yaxis.label.set_visible(False)
                drawn.append((axis, panel))
        share_axes(drawn)
        legend_below(canvas, legend.entries)
        canvas.suptitle(heading, fontsize=10)
        return save(canvas, directory, name)
