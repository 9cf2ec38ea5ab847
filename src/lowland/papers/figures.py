"""Figures of measures over epochs, a line for each kind of arm."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from lowland.training import Level, Line, Outcome, Panel, Plot, repeats

# A column of the records and how its panel is drawn: heading, label of the vertical axis, whether logarithmic.
PanelOf = tuple[str, str, str, bool]
# The arms → column → levels across its panel: what a paper reports.
LevelsOf = Callable[[Mapping[str, Outcome]], Mapping[str, Sequence[Level]]]

_MOST = 20  # seeds that are drawn one by one: more would hide the mean


def over_epochs(
    name: str, title: str, kinds: Sequence[str], columns: Sequence[PanelOf], levels: LevelsOf | None = None
) -> Plot:
    """A panel for each of ``columns``: of each kind of arm the mean over seeds, and every seed thinly, if few.

    ``levels``: what is drawn across them.
    """

    def panels(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
        across = levels(outcomes) if levels is not None else {}
        drawn = []
        for column, heading, label, log in columns:
            lines = [line for kind in kinds for line in _lines(outcomes, kind, column)]
            drawn.append(Panel(heading, "epoch", label, lines, logy=log, levels=across.get(column, ())))
        return drawn

    return Plot(name, title, panels)


def _lines(outcomes: Mapping[str, Outcome], kind: str, column: str) -> list[Line]:
    found = [outcome for label, outcome in outcomes.items() if repeats(label, kind) and outcome.records]
    # A value that was not finite is None in the records.
    curves = [{r["epoch"]: r[column] for r in outcome.records if r.get(column) is not None} for outcome in found]
    if not any(curves):
        return []
    shared = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
    mean = Line(shared, [fmean(curve[epoch] for curve in curves) for epoch in shared], kind)
    if len(curves) == 1 or len(curves) > _MOST:
        return [mean]
    return [*(Line(list(curve), list(curve.values()), beside=kind) for curve in curves), mean]
