"""Panels of a sweep's differences to ρ = 0 against ρ, with the 95 % interval over seeds as a band."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lowland.report.axes import labelled, suits_logarithm
from lowland.training import Curve, Level, Panel, banded
from lowland.training.sweep.cells import Cell
from lowland.training.sweep.differences import differences


def difference_panels(cells: Sequence[Cell], curves: Sequence[Curve]) -> list[Panel]:
    """A panel for each of ``curves``, with a line for each combination of the settings other than ρ.

    A combination with a single ρ > 0 has no line and is left out.
    """
    panels = []
    for curve in curves:
        groups = defaultdict[tuple[tuple[str, Any], ...], list[tuple[float, Any]]](list)
        for found in differences(cells, curve.column):
            rest = tuple((name, value) for name, value in found.settings.items() if name != "rho")
            if "rho" in found.settings and found.difference is not None:
                groups[rest].append((float(found.settings["rho"]), found.difference))
        lines = []
        for rest, points in groups.items():
            if len(points) < 2:
                continue
            points.sort(key=lambda point: point[0])
            lines.append(banded(dict(points), labelled(dict(rest)) or "SAM"))
        if lines:
            wide = suits_logarithm([rho for line in lines for rho in line.x if rho is not None])
            title = curve.label or curve.column
            what, none = f"{title}\nSAM − (ρ = 0)", Level(0.0, "no difference", style="-", within=True)
            panels.append(Panel(title, "ρ", what, lines, logx=wide, levels=(none,)))
    return panels
