"""The figures of Long & Bartlett 2024."""

from collections.abc import Mapping

from lowland.training import Arm, Line, Panel, Plot
from lowland.training.figures import EDGE_OF_STABILITY


def _eigenvalues(arms: Mapping[str, Arm]) -> list[Panel]:
    """Of the arms that record several."""
    panels = []
    for name, arm in arms.items():
        records = [record for record in arm.records if "eigenvalues" in record]
        if records:
            steps = [record["step"] for record in records]
            lines = [
                Line(steps, [abs(record["eigenvalues"][i]) for record in records], f"|λ{i + 1}|")
                for i in range(len(records[0]["eigenvalues"]))
            ]
            lines += [Line(steps, [record[edge] for record in records], label, style) for edge, label, style in _EDGES]
            title = f"{name}: η = {arm.settings.lr:g}, ρ = {arm.settings.rho:g}"
            panels.append(Panel(title, "step", "magnitude", lines, logy=True))
    return panels


_EDGES = (("edge", "SAM edge", "--"), ("gd_edge", "2/η", ":"))
FIGURES = (*EDGE_OF_STABILITY, Plot("eigenvalues", "The Hessian's largest eigenvalues", _eigenvalues))
