"""Figures of a run, from its records and what became of its arms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.report.canvas import COLOURS, plain_logarithm, save, style
from lowland.report.plots import draw_plot
from lowland.training import Experiment, Figure, Outcome


def draw_run(directory: Path, experiment: Experiment, outcomes: Mapping[str, Outcome]) -> list[Path]:
    """Draw the experiment's figures as PNG and PDF under ``directory``; returns the PNG files.

    A `Figure` leaves out arms without a record, which diverged before their first check. For a `Plot` its function
    decides.
    """
    directory.mkdir(parents=True, exist_ok=True)
    records = {name: outcome.records for name, outcome in outcomes.items() if outcome.records}
    labels = {
        name: f"{name}: η = {outcomes[name].settings.lr:g}, ρ = {outcomes[name].settings.rho:g}" for name in records
    }
    drawn = []
    for figure in experiment.figures:
        if isinstance(figure, Figure):
            drawn += draw(directory, [figure], records, labels, experiment.name) if records else []
        elif (path := draw_plot(directory, figure, outcomes, experiment.name)) is not None:
            drawn.append(path)
    return drawn


def draw(
    directory: Path,
    figures: Sequence[Figure],
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    labels: Mapping[str, str],
    title: str,
) -> list[Path]:
    """Draw each figure as PNG and PDF under ``directory``, a panel for each arm.

    Args:
        directory: made if it doesn't exist.
        figures: what to draw.
        records: those of each arm, in the order of steps.
        labels: the heading of each arm's panel.
        title: of the experiment; the heading of every figure.

    Returns:
        The PNG files, in the order of ``figures``.
    """
    from matplotlib.figure import Figure as Canvas

    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for figure in figures:
        with style():
            canvas = Canvas(figsize=(max(3.4 * len(records), 4.2), 3.1), layout="constrained")
            axes = canvas.subplots(1, len(records), squeeze=False)[0]
            for axis, (arm, lines) in zip(axes, records.items(), strict=True):
                _panel(axis, figure, lines)
                axis.set_title(labels[arm], fontsize=9)
            axes[0].set_ylabel(figure.ylabel)
            canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
            canvas.suptitle(f"{figure.title} ({title})", fontsize=10)
            drawn.append(save(canvas, directory, figure.name))
    return drawn


def _panel(axis: Any, figure: Figure, lines: Sequence[Mapping[str, Any]]) -> None:
    for curve, colour in zip(figure.curves, COLOURS, strict=False):
        points = [(line["step"], line[curve.column]) for line in lines if line.get(curve.column) is not None]
        if points:
            marker = "o" if len(points) == 1 else ""
            axis.plot(*zip(*points, strict=True), curve.style + marker, color=colour, label=curve.label)
    axis.set_xlabel("step")
    if figure.log:
        axis.set_yscale("log")
        plain_logarithm(axis.yaxis)
    else:
        axis.set_ylim(0, 1.02)
