"""Heat maps of a metric over two settings of a grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.report.axes import file_part, heading, is_logarithmic, labelled, others, symbol, values_of
from lowland.report.canvas import COLOURS, label_positions, legend_below, plain_logarithm, save, style
from lowland.report.grid_end import ends
from lowland.training import Curve
from lowland.training.sweep.cells import Cell

_PANELS = 6
_ANNOTATED = (14, 20)  # most columns and rows for which numbers fit into the cells
_FRAME = COLOURS[1]


def draw_map(
    directory: Path, cells: Sequence[Cell], curve: Curve, axes: Sequence[str], best: Cell | None,
    title: str,
) -> Path:  # fmt: skip
    """Draw the means over seeds as colours and numbers: the first of ``axes`` upwards, the second to the right.

    Cells with diverged runs are hatched. The ``best`` one is framed, with an arrow where the grid ends at it. If
    further settings vary, there is a panel for each combination of them, up to six.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure as Canvas

    y, x = axes
    columns, rows = values_of(cells, x), values_of(cells, y)
    panels, count = _panels(cells, axes, best)
    means = [estimate.mean for panel in panels for cell in panel if (estimate := cell.estimate(curve.column))]
    bounds = (min(means), max(means)) if means else (0.0, 1.0)
    norm = LogNorm(*bounds) if is_logarithmic(means) else Normalize(*bounds)
    colours = ScalarMappable(norm, colormaps["viridis"])
    with style():
        width, height = min(1.1 + 0.75 * len(columns), 12), min(1.2 + 0.48 * len(rows), 10)
        across = 2 if len(panels) == 4 else min(len(panels), 3)
        down = -(-len(panels) // across)
        size = (max(across * width + 0.8, 4.2), down * height + 0.6)
        canvas = Canvas(figsize=size, layout="constrained")
        drawn = [canvas.add_subplot(down, across, number + 1) for number in range(len(panels))]
        for number, (axis, panel) in enumerate(zip(drawn, panels, strict=True)):
            _panel(axis, panel, curve.column, (columns, rows), (x, y), colours, best)
            axis.set_title(labelled(dict(others(panel[0], axes))), fontsize=9)
            if number % across == 0:
                label_positions(axis.yaxis, rows)
                axis.set_ylabel(symbol(y))
            if number + across >= len(panels):
                label_positions(axis.xaxis, columns, width - 0.8)
                axis.set_xlabel(symbol(x))
        bar = canvas.colorbar(colours, ax=drawn, label=curve.label)
        if isinstance(norm, LogNorm):
            plain_logarithm(bar.ax.yaxis)
        legend_below(canvas, _handles(panels, best, {x: columns, y: rows}))
        seeds = max(len(cell.runs) for cell in cells)
        what = f"mean over {seeds} seeds" if seeds > 1 else "one seed"
        if len(panels) < count:
            what += f", {len(panels)} of {count} panels"
        canvas.suptitle(heading(curve.label, what, title), fontsize=10)
        return save(canvas, directory, f"{file_part(curve.column)}-over-{file_part(y)}-and-{file_part(x)}")


def _panels(cells: Sequence[Cell], axes: Sequence[str], best: Cell | None) -> tuple[list[list[Cell]], int]:
    """The cells of each panel (the first few panels and that of the best), and the number of all panels."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(others(cell, axes), []).append(cell)
    chosen = list(found)[:_PANELS]
    if best is not None and others(best, axes) not in chosen:
        chosen[-1] = others(best, axes)
    return [found[key] for key in chosen], len(found)


def _panel(
    axis: Any, panel: Sequence[Cell], column: str, values: tuple[Sequence[Any], Sequence[Any]], names: tuple[str, str],
    colours: Any, best: Cell | None,
) -> None:  # fmt: skip
    from matplotlib.patches import Rectangle

    for cell in panel:
        place = [among.index(cell.settings[name]) for among, name in zip(values, names, strict=True)]
        estimate, corner = cell.estimate(column), (place[0] - 0.5, place[1] - 0.5)
        face = colours.to_rgba(estimate.mean) if estimate else (0.93, 0.93, 0.93, 1.0)
        hatch = "////" if cell.count("diverged") else None
        axis.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor=_hatching(face), linewidth=0, hatch=hatch))
        if all(len(among) <= most for among, most in zip(values, _ANNOTATED, strict=True)):
            axis.text(
                *place, _annotation(cell, column), ha="center", va="center", fontsize=7.5,
                color="white" if _dark(face) else "black",
                bbox={"facecolor": face, "edgecolor": "none", "pad": 1.0} if hatch else None,
            )  # fmt: skip
        if cell is best:
            _mark_ends(axis, place, values)
            inset = (corner[0] + 0.03, corner[1] + 0.04)
            axis.add_patch(Rectangle(inset, 0.94, 0.92, fill=False, edgecolor=_FRAME, linewidth=2.5, zorder=3))
    axis.set(xticks=[], yticks=[])
    axis.set(xlim=(-0.5, len(values[0]) - 0.5), ylim=(-0.5, len(values[1]) - 0.5))
    axis.grid(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _mark_ends(axis: Any, place: Sequence[int], values: tuple[Sequence[Any], Sequence[Any]]) -> None:
    """Arrows out of the map, where the grid ends at the selected settings."""
    for along, (at, among) in enumerate(zip(place, values, strict=True)):
        if ends(among, among[at]):
            outwards = 0.5 if at else -0.5
            tip = [at + outwards if number == along else each for number, each in enumerate(place)]
            marker = ("<>" if along == 0 else "v^")[outwards > 0]
            axis.plot(*tip, marker, color=_FRAME, markersize=7, clip_on=False, zorder=4)


def _annotation(cell: Cell, column: str) -> str:
    """The mean, and below it the most frequent failure with its number of runs."""
    estimate = cell.estimate(column)
    lines = [f"{estimate.mean:.3g}"] if estimate else []
    ended = {status: cell.count(status) for status in ("diverged", "failed", "stopped")}
    status = max(ended, key=lambda status: ended[status])
    if ended[status] == len(cell.runs):
        lines.append(status)
    elif ended[status]:
        lines.append(f"{ended[status]}/{len(cell.runs)} {status}")
    return "\n".join(lines)


def _dark(face: Sequence[float]) -> bool:
    """Whether white has more contrast to ``face`` than black, by WCAG's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in face[:3]]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) < 0.179


def _hatching(face: Sequence[float]) -> tuple[float, float, float, float]:
    return (1.0, 1.0, 1.0, 0.5) if _dark(face) else (0.0, 0.0, 0.0, 0.3)


def _handles(
    panels: Sequence[Sequence[Cell]], best: Cell | None, values: Mapping[str, Sequence[Any]]
) -> list[Any]:  # fmt: skip
    from matplotlib.patches import Patch

    handles = []
    if best is not None:
        at_ends = [symbol(name) for name, among in values.items() if ends(among, best.settings[name])]
        said = f" (where the grid of {', '.join(at_ends)} ends)" if at_ends else ""
        label = f"selected: {labelled(best.settings)}{said}"
        handles.append(Patch(fill=False, edgecolor=_FRAME, linewidth=2, label=label))
    if any(cell.count("diverged") for panel in panels for cell in panel):
        handles.append(
            Patch(facecolor=(0.93, 0.93, 0.93), edgecolor=(0, 0, 0, 0.3), linewidth=0, hatch="////",
                  label="with runs that diverged")
        )  # fmt: skip
    return handles
