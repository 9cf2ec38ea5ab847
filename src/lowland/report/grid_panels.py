"""A figure of single runs over two settings of a grid: a panel for each pair of values, on shared axes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowland.report.axes import labelled, others, values_of
from lowland.report.canvas import COLOURS, plain_logarithm, save, style
from lowland.training import Figure, Outcome
from lowland.training.sweep.cells import Cell

_LARGEST = 10  # inches across or down


def draw_panels(directory: Path, cells: Sequence[Cell], figure: Figure, best: Cell | None, title: str) -> Path | None:
    """Draw ``figure`` over the two settings that it names, as PNG and PDF; returns the PNG's path.

    Each panel has the curves of its runs, one for each seed. If further settings vary, their values are those of
    ``best`` (of the first cell if nothing is selected), and the title names them. A diverged run is drawn up to where
    it diverged, and its panel says where. Returns None if the grid doesn't vary both settings, or no run has a record.
    """
    assert figure.over_grid is not None
    rows, columns = figure.over_grid
    varied = [name for name in figure.over_grid if cells and name in cells[0].settings]
    if len(varied) < 2 or min(len(values_of(cells, name)) for name in varied) < 2:
        return None
    rest = others(best or cells[0], (rows, columns))
    shown = [cell for cell in cells if others(cell, (rows, columns)) == rest]
    if not any(outcome.records for cell in shown for outcome in cell.runs.values()):
        return None
    down, across = values_of(shown, rows), values_of(shown, columns)
    from matplotlib.figure import Figure as Canvas

    with style():
        size = (min(2.2 * len(across) + 0.6, _LARGEST), min(1.7 * len(down) + 0.9, _LARGEST))
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.subplots(len(down), len(across), sharex=True, sharey=True, squeeze=False)
        found = {(cell.settings[rows], cell.settings[columns]): cell for cell in shown}
        handles: dict[str, Any] = {}
        for row, high in enumerate(down):
            for column, wide in enumerate(across):
                axis = axes[row][column]
                cell = found.get((high, wide))
                if cell is None:
                    axis.set_visible(False)
                    continue
                handles |= _panel(axis, figure, list(cell.runs.values()))
                axis.set_title(labelled({rows: high, columns: wide}), fontsize=8)
        if figure.log:
            axes[0][0].set_yscale("log")
            plain_logarithm(axes[0][0].yaxis)
        else:
            axes[0][0].set_ylim(0, 1.02)
        for axis in axes[-1]:
            axis.set_xlabel("step")
        for axis in axes[:, 0]:
            axis.set_ylabel(figure.ylabel)
        canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
        canvas.suptitle(f"{figure.title}{', ' + labelled(dict(rest)) if rest else ''}\n{title}", fontsize=10)
        return save(canvas, directory, f"{figure.name}-over-{rows}-and-{columns}")


def _panel(axis: Any, figure: Figure, runs: Sequence[Outcome]) -> dict[str, Any]:
    """Draw the curves of some runs into a panel; returns its legend entries by label."""
    handles = {}
    for run in runs:
        for curve, colour in zip(figure.curves, COLOURS, strict=False):
            points = [(each["step"], each[curve.column]) for each in run.records if each.get(curve.column) is not None]
            if points:
                marker = "o" if len(points) == 1 else ""
                thin = {"linewidth": 0.8} if len(runs) > 1 else {}
                (line,) = axis.plot(*zip(*points, strict=True), curve.style + marker, color=colour, **thin)
                handles[curve.label] = line
    ends = [run.diverged_at for run in runs if run.diverged_at is not None]
    if ends:
        some = f"{len(ends)} of {len(runs)} " if len(runs) > 1 else ""
        said = f"{some}diverged at step {min(ends)}"
        axis.text(0.97, 0.93, said, transform=axis.transAxes, ha="right", va="top", fontsize=7)
    return handles
