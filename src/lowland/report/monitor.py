"""The figures of Long & Bartlett 2024 for any training, from the records of a `lowland.curvature.Monitor`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowland.curvature import read_jsonl
from lowland.report.run import draw
from lowland.training.drawing import Figure
from lowland.training.figures import EDGE_OF_STABILITY, SHARPNESS

NO_EDGE = "no edge: it is known for SGD alone"

Records = Sequence[Mapping[str, Any]] | str | os.PathLike[str]


def draw_monitor(
    records: Records | Mapping[str, Records], directory: str | os.PathLike[str], *, title: str = "monitor"
) -> list[Path]:
    """Draw Hessian norm and edges, alignments, loss and m-sharpness over the steps, each as PNG and PDF.

    The first four are figures of Long & Bartlett 2024, *Sharpness-Aware Minimization and the Edge of Stability*. If the
    optimizer's edge is unknown (for Adam, for example), a note above the panel says so.

    Args:
        records: ``monitor.records``, or the JSONL file that it wrote; a dict of several gives a panel for each.
        directory: made if it doesn't exist.
        title: the heading of every figure.

    Returns:
        The PNG files. Figures without values are left out.

    Raises:
        ValueError: if there is no record, or for a file that no monitor wrote.
    """
    named = records if isinstance(records, Mapping) else {"": records}
    panels = {name: read_jsonl(one) if isinstance(one, str | os.PathLike) else one for name, one in named.items()}
    if not panels or not all(panels.values()):
        raise ValueError("there are no records to draw: has the monitor made a check yet?")
    figures = [
        _named(figure, panels)
        for figure in (*EDGE_OF_STABILITY, SHARPNESS)
        if all(_known(panels, curve.column) or figure.name == "hessian-norm" for curve in figure.curves)
    ]
    edges = [figure for figure in figures if any("edge" in curve.column for curve in figure.curves)]
    others = [figure for figure in figures if figure not in edges]
    noted = draw(Path(directory), edges, panels, {name: _note(name, lines) for name, lines in panels.items()}, title)
    return noted + draw(Path(directory), others, panels, {name: name for name in panels}, title)


def _note(name: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """The heading of a panel: its name, and why there is no edge if the optimizer has none."""
    moves = any(line.get("lr") is not None for line in lines)
    if not moves or any(line.get("gd_edge") is not None for line in lines):
        return name
    return f"{name}\n{NO_EDGE}".strip()


def _named(figure: Figure, panels: Mapping[str, Any]) -> Figure:
    """``figure`` with the edge without SAM labelled correctly: with momentum it isn't 2/η."""
    if not any(line.get("momentum") for lines in panels.values() for line in lines):
        return figure
    curves = (replace(c, label="edge without SAM") if c.column == "gd_edge" else c for c in figure.curves)
    return replace(figure, curves=tuple(curves))


def _known(panels: Mapping[str, Any], column: str) -> bool:
    return any(line.get(column) is not None for lines in panels.values() for line in lines)
