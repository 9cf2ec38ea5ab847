"""Figures of a sweep, from the outcomes of its runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lowland.patience import doing
from lowland.report.axes import numeric
from lowland.report.differences import difference_panels
from lowland.report.grid_lines import draw_lines
from lowland.report.grid_panels import draw_panels
from lowland.report.heat_map import draw_map
from lowland.report.plots import draw_plot
from lowland.training import Curve, Experiment, Figure, Outcome, Plot
from lowland.training.sweep.cells import Cell, cells_of
from lowland.training.sweep.selection import select

_BETWEEN = "SAM less ρ = 0, paired by seed, with 95 % intervals"


def draw_sweep(
    directory: Path, experiment: Experiment, outcomes: Mapping[str, Outcome], varied: Sequence[str]
) -> list[Path]:
    """Draw a sweep's figures as PNG and PDF under ``directory``. Metrics are those of each run's last record.

    1. Every metric of interest, and the one of the selection, against ρ and against m, if they vary; otherwise against
       the first setting with several numbers. There is a line for each combination of the other settings.
    2. A heat map of the selection's metric (otherwise the first one) over η and ρ, otherwise the first two settings.
    3. The figures of single runs that the experiment wants as panels over the grid.
    4. The differences to ρ = 0, paired by seed.
    5. The experiment's own ``sweep_figures``.

    Figures that the grid is too small for, or that no run has values for, are left out.

    Args:
        directory: made if it doesn't exist.
        experiment: names the metrics and figures.
        outcomes: label → outcome of a run, in the order of the grid.
        varied: the settings that vary over the grid.

    Returns:
        The PNG files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    with doing("drawing figures", elsewhere=True) as now:
        for path in _draw(directory, experiment, outcomes, cells_of(outcomes, varied)):
            drawn.append(path)
            now.what = f"drawing figures, {len(drawn)} so far"
    return drawn


def _draw(
    directory: Path, experiment: Experiment, outcomes: Mapping[str, Outcome], cells: Sequence[Cell]
) -> Iterator[Path]:
    curves = _curves(experiment)
    selection = experiment.selection
    best = select(cells, selection) if selection else None
    axes = numeric(cells)
    if axes:
        for x in [x for x in ("rho", "m") if x in axes] or axes[:1]:
            for curve in curves:
                if _has_values(cells, curve):
                    yield draw_lines(directory, cells, curve, x, best, experiment.name)
    if len(axes) > 1 and curves:
        y, x = ("lr", "rho") if {"lr", "rho"} <= set(axes) else axes[:2]
        metric = selection.metric if selection else curves[0].column
        curve = next(curve for curve in curves if curve.column == metric)
        if _has_values(cells, curve):
            yield draw_map(directory, cells, curve, (y, x), best, experiment.name)
    for figure in experiment.figures:
        if isinstance(figure, Figure) and figure.over_grid is not None:
            yield from draw_panels(directory, cells, figure, best, experiment.name)
    between = Plot("differences", _BETWEEN, lambda _: difference_panels(cells, curves))
    for plot in (between, *experiment.sweep_figures):
        if (path := draw_plot(directory, plot, outcomes, experiment.name)) is not None:
            yield path


def _curves(experiment: Experiment) -> list[Curve]:
    curves = list(experiment.outcomes)
    metric = experiment.selection.metric if experiment.selection else None
    if metric and metric not in [curve.column for curve in curves]:
        curves.append(Curve(metric, metric.replace("_", " ")))
    return curves


def _has_values(cells: Sequence[Cell], curve: Curve) -> bool:
    return any(cell.values(curve.column) for cell in cells)
