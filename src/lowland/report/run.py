"""Figures of a run, from its records and what became of its arms."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lowland.patience import doing
from lowland.report.curves import Records, overlay, panel_of
from lowland.report.plots import draw_figure, draw_plot
from lowland.training import Experiment, Figure, Outcome


def draw_run(directory: Path, experiment: Experiment, outcomes: Mapping[str, Outcome]) -> list[Path]:
    """Draw the experiment's figures as PNG and PDF under ``directory``; returns the PNG files.

    A `Figure` leaves out arms without a record, which diverged before their first check. For a `Plot` its function
    decides.
    """
    directory.mkdir(parents=True, exist_ok=True)
    there = {name: outcome for name, outcome in outcomes.items() if outcome.records}
    labels = {name: f"{name}: η = {one.settings.lr:g}, ρ = {one.settings.rho:g}" for name, one in there.items()}
    records = {name: outcome.records for name, outcome in there.items()}
    diverged = {
        name: f"diverged at step {outcome.diverged_at}"
        for name, outcome in there.items()
        if outcome.diverged_at is not None
    }
    against = next((name for name, outcome in there.items() if outcome.settings.rho == 0), "")
    drawn = []
    with doing("drawing figures", elsewhere=True) as now:
        for number, figure in enumerate(experiment.figures, 1):
            now.what = f"drawing figure {number} of {len(experiment.figures)}"
            if isinstance(figure, Figure):
                drawn += draw(
                    directory, [figure], records, labels, experiment.name, against=against, notes=diverged
                )  # fmt: skip
            elif (path := draw_plot(directory, figure, outcomes, experiment.name)) is not None:
                drawn.append(path)
    return drawn


def draw(
    directory: Path,
    figures: Sequence[Figure],
    records: Mapping[str, Records],
    labels: Mapping[str, str],
    title: str,
    *,
    against: str = "",
    notes: Mapping[str, str] | None = None,
) -> list[Path]:
    """Draw each figure as PNG and PDF under ``directory``: a panel for each arm, of a single curve one for all arms.

    Args:
        directory: made if it doesn't exist.
        figures: what to draw.
        records: those of each arm, in the order of steps.
        labels: the heading of each arm's panel, and its entry in the legend of a single curve.
        title: of the experiment; the heading of every figure.
        against: the arm with which the others are compared, where there is a single curve; by default the first.
        notes: arm → a further line of its heading.

    Returns:
        The PNG files, in the order of ``figures``; without those of which no arm has values.
    """
    directory.mkdir(parents=True, exist_ok=True)
    noted = notes or {}
    drawn = []
    for figure in figures:
        if len(figure.curves) == 1:
            named = {labels[arm]: found for arm, found in records.items()}
            said = [f"{arm} {note}" for arm, note in noted.items()]
            panels = [overlay(figure, named, labels.get(against, next(iter(named), "")), said)]
        else:
            panels = [panel_of(figure, {0: found}, labels[arm], noted.get(arm, "")) for arm, found in records.items()]
        drawn.append(draw_figure(directory, figure.name, f"{figure.title} ({title})", panels))
    return [path for path in drawn if path is not None]
