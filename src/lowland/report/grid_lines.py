"""A metric against one setting of a grid, with a line for each combination of the others."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.report.axes import file_part, heading, is_logarithmic, labelled, others, symbol, values_of
from lowland.report.canvas import COLOURS, label_positions, legend_below, plain_logarithm, save, style
from lowland.report.grid_end import SELECTED, ends
from lowland.report.reach import name_beyond, span
from lowland.training import Curve
from lowland.training.sweep.cells import Cell

_GREY = "#999999"
_ROOM = 0.05  # of the vertical axis beyond what is drawn
Line = Mapping[Any, Cell]  # value of the horizontal setting → cell


def draw_lines(directory: Path, cells: Sequence[Cell], curve: Curve, x: str, best: Cell | None, title: str) -> Path:
    """Draw means with standard errors at evenly spaced positions, which gives ρ = 0 a place on the axis.

    Diverged runs are counted above the figure. A hollow marker is a mean over fewer seeds than were started. If there
    are more lines than colours, the rest is grey; the line of ``best`` always has a colour, and a ring marks it there:
    the legend says if the grid ends at it. The curve's level is drawn across.
    """
    from matplotlib.figure import Figure as Canvas

    positions = values_of(cells, x)
    lines: dict[Any, dict[Any, Cell]] = {}
    for cell in cells:
        lines.setdefault(others(cell, [x]), {})[cell.settings[x]] = cell
    coloured = _coloured(lines, x, best)
    diverged = [key for key, line in lines.items() if any(cell.count("diverged") for cell in line.values())]
    strips: list[Any] = [key for key in coloured if key in diverged]
    if len(strips) < len(diverged):
        strips.append(None)
    with style():
        height = 0.17 * len(strips)
        width = min(max(4.2, 1.4 + 0.75 * len(positions)), 10)
        canvas = Canvas(figsize=(width, 3.3 + height), layout="constrained")
        if strips:
            above, axis = canvas.subplots(2, 1, sharex=True, height_ratios=(height, 2.4))
            _count(above, strips, lines, coloured, positions)
        else:
            axis = canvas.subplots()
        for key in sorted(lines, key=lambda key: key in coloured):  # grey lines first, so that they lie below
            _line(axis, lines[key], positions, curve.column, _shift(key, coloured), coloured.get(key))
        across = _level(axis, curve)
        _scale(axis, cells, curve)
        marks = [*across, *_selected(axis, best, curve.column, x, positions, _shift_of(best, x, coloured))]
        label_positions(axis.xaxis, positions, width - 1)
        axis.set_xlim(-0.4, len(positions) - 0.6)
        axis.set_xlabel(symbol(x))
        axis.set_ylabel(curve.label)
        hollow = any(not cell.complete and cell.values(curve.column) for cell in cells)
        legend_below(canvas, [*_handles(lines, coloured, hollow), *marks])
        seeds = max(len(cell.runs) for cell in cells)
        what = f"mean and standard error over {seeds} seeds" if seeds > 1 else "one seed"
        canvas.suptitle(heading(curve.label, what, title), fontsize=10)
        return save(canvas, directory, f"{file_part(curve.column)}-by-{file_part(x)}")


def _coloured(lines: Mapping[Any, Line], x: str, best: Cell | None) -> dict[Any, str]:
    """The colours of the first lines and of the best cell's line; the others are grey."""
    chosen = list(lines)[: len(COLOURS)]
    key = others(best, [x]) if best else None
    if key is not None and key not in chosen:
        chosen[-1] = key
    return dict(zip(chosen, COLOURS, strict=False))


def _shift(key: Any, coloured: Mapping[Any, str]) -> float:
    """A horizontal offset for each line, so that error bars don't overlap."""
    if key not in coloured:
        return 0.0
    return (list(coloured).index(key) - (len(coloured) - 1) / 2) * 0.05


def _line(
    axis: Any, line: Line, positions: Sequence[Any], column: str, shift: float, colour: str | None
) -> None:  # fmt: skip
    estimates = {value: cell.estimate(column) for value, cell in line.items()}
    known = [estimates.get(value) for value in positions]
    places = [index + shift for index in range(len(positions))]
    means = [estimate.mean if estimate else math.nan for estimate in known]
    errors = [(estimate.standard_error if estimate else None) or 0.0 for estimate in known]
    if colour is None:
        axis.plot(places, means, color=_GREY, linewidth=0.7, alpha=0.6, marker=".", markersize=3)
        return
    axis.errorbar(places, means, errors, color=colour, elinewidth=0.9, capsize=2)
    for place, mean, value in zip(places, means, positions, strict=True):
        if math.isfinite(mean):
            whole = line[value].complete
            axis.plot(place, mean, "o", color=colour, markersize=4.5, markerfacecolor=colour if whole else "white")


def _count(
    axis: Any, strips: Sequence[Any], lines: Mapping[Any, Line], coloured: Mapping[Any, str], positions: Sequence[Any]
) -> None:
    """Draw crosses with the number of diverged runs: a row for each line that has some, one for all grey lines."""
    for row, strip in enumerate(strips):
        members = [lines[strip]] if strip is not None else [line for key, line in lines.items() if key not in coloured]
        for index, value in enumerate(positions):
            there = [line[value] for line in members if value in line]
            diverged = sum(cell.count("diverged") for cell in there)
            if diverged:
                colour = coloured.get(strip, _GREY)
                runs = sum(len(cell.runs) for cell in there)
                axis.plot(index - 0.09, -row, "x", color=colour, markersize=5, markeredgewidth=1.6)
                axis.annotate(f"{diverged}/{runs}", (index, -row), color=colour, fontsize=7, va="center_baseline")
    axis.set_ylim(-len(strips) + 0.4, 0.6)
    axis.set_ylabel("diverged", rotation=0, ha="right", va="center", fontsize=8)
    axis.set_yticks([])
    axis.grid(False)
    axis.tick_params(bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)


def _level(axis: Any, curve: Curve) -> list[Any]:
    """The curve's level across, as its entry in the legend."""
    if curve.level is None:
        return []
    style = {"linestyle": curve.level.style, "color": _GREY, "linewidth": 1.2, "label": curve.level.label}
    return [axis.axhline(curve.level.value, **style)]


def _selected(
    axis: Any, best: Cell | None, column: str, x: str, positions: Sequence[Any], shift: float
) -> list[Any]:  # fmt: skip
    """A ring around the selected settings, whose entry in the legend says if they lie where the grid ends."""
    estimate = best.estimate(column) if best is not None else None
    if best is None or estimate is None:
        return []
    value = best.settings[x]
    return axis.plot(
        positions.index(value) + shift, estimate.mean, "o", markersize=10, markerfacecolor="none",
        markeredgecolor="black", linestyle="", label=SELECTED if ends(positions, value) else "selected",
    )  # fmt: skip


def _shift_of(best: Cell | None, x: str, coloured: Mapping[str, Any]) -> float:
    return _shift(others(best, [x]), coloured) if best is not None else 0.0


def _scale(axis: Any, cells: Sequence[Cell], curve: Curve) -> None:
    """Fit the vertical axis to the means and their errors; a level far from them is named at its edge."""
    estimates = [estimate for cell in cells if (estimate := cell.estimate(curve.column))]
    means = [estimate.mean for estimate in estimates]
    tops = [estimate.mean + (estimate.standard_error or 0) for estimate in estimates]
    levels = [curve.level] if curve.level is not None else []
    log = is_logarithmic(means)
    low, high = span([*means, *tops], (), levels, log) or (0.0, 0.0)
    if log:
        # An error bar may reach below 0, where a logarithmic axis has no place: limit the range to near the means.
        axis.set_yscale("log", nonpositive="clip")
        axis.set_ylim(low / 1.6, high * 1.4)
        plain_logarithm(axis.yaxis)
    elif low < high:
        bottoms = [estimate.mean - (estimate.standard_error or 0) for estimate in estimates]
        low = min(low, *bottoms) if low < 0 else max(0.0, min(low, *bottoms))  # an error below 0 is none
        room = _ROOM * (high - low)
        axis.set_ylim(low - room, high + room)
    name_beyond(axis, levels, axis.get_ylim())


def _handles(lines: Mapping[Any, Line], coloured: Mapping[Any, str], hollow: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4.5, label=labelled(dict(key)))
        for key, colour in coloured.items()
        if key
    ]
    left = len(lines) - len(coloured)
    if left:
        handles.append(Line2D([], [], color=_GREY, linewidth=0.7, label=f"{left} other settings"))
    if hollow:
        handles.append(
            Line2D([], [], color="black", linestyle="", marker="o", markersize=4.5, markerfacecolor="white",
                   label="some seeds missing"),
        )  # fmt: skip
    return handles
