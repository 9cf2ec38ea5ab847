"""Figures of a run, from what became of its arms."""

from collections.abc import Mapping
from pathlib import Path

from lowland.report.figures import draw
from lowland.report.plots import draw_plot
from lowland.training import Experiment, Figure, Outcome


def draw_run(directory: Path, experiment: Experiment, outcomes: Mapping[str, Outcome]) -> list[Path]:
    """Draw the experiment's figures as PNG and PDF under ``directory``; the PNG files.

    Arms without a record (they diverged before their first check) are left out of `Figure`; of a `Plot` its function
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
