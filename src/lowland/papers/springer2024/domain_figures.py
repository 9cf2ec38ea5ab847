"""Bars of the error by held-out domain, and errors over training."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from lowland.papers.springer2024.domain_table import METHODS, measure_of, table
from lowland.training import Bars, Line, Outcome, Panel
from lowland.training.statistics import estimate


def bars(outcomes: Mapping[str, Outcome]) -> Sequence[Bars]:
    """What the table says."""
    rows = [row for row in table(outcomes) if row.runs]
    if not rows:
        return []
    found = {row.name: [estimate(list(values.values())) for values in row.measures.values()] for row in rows}
    return [
        Bars(
            "",
            "held-out domain",
            "accuracy of the probe" if measure_of(outcomes) == "probe" else "test error",
            list(rows[0].measures),
            {name: [each.mean if each else None for each in several] for name, several in found.items()},
            {name: [each.standard_error if each else None for each in several] for name, several in found.items()},
        )
    ]


def over_training(outcomes: Mapping[str, Outcome]) -> Sequence[Panel]:
    """Means over seeds and domains of the steps at which all of them have records."""
    panels = []
    for column, heading in (("validation_error", "validation, training domains"), ("test_error", "held-out domain")):
        lines = []
        for method in METHODS:
            curves = [
                {record["step"]: record[column] for record in outcome.records}
                for outcome in outcomes.values()
                if METHODS[outcome.settings.rho > 0] == method and outcome.records
            ]
            steps = sorted(set.intersection(*map(set, curves))) if curves else []
            if steps:
                lines.append(Line(steps, [fmean(curve[step] for curve in curves) for step in steps], method))
        panels.append(Panel(heading, "step", "error", lines))
    return panels
