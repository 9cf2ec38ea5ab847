"""The figures of Long & Bartlett 2024."""

from collections.abc import Mapping

from lowland.training import Line, Outcome, Panel, Plot
from lowland.training.figures import EDGE_OF_STABILITY, not_at_edge


def _eigenvalues(outcomes: Mapping[str, Outcome]) -> list[Panel]:
    """The largest eigenvalues over steps, of the arms that record several."""
    panels = []
    for name, outcome in outcomes.items():
        records = [record for record in outcome.records if "eigenvalues" in record]
        if records:
            steps = [record["step"] for record in records]
            lines = [
                Line(steps, [abs(record["eigenvalues"][i]) for record in records], f"|λ{i + 1}|")
                for i in range(len(records[0]["eigenvalues"]))
            ]
            lines += [Line(steps, [record[edge] for record in records], label, style) for edge, label, style in _EDGES]
            title = f"{name}: η = {outcome.settings.lr:g}, ρ = {outcome.settings.rho:g}"
            against = [label for _, label, _ in reversed(_EDGES)]
            panels.append(
                Panel(title, "step", "magnitude", lines, logy=True, against=against, note=not_at_edge([records]))
            )
    return panels


_EDGES = (("gd_edge", "2/η", ":"), ("edge", "SAM edge", "--"))
FIGURES = (*EDGE_OF_STABILITY, Plot("eigenvalues", "The Hessian's largest eigenvalues", _eigenvalues))
