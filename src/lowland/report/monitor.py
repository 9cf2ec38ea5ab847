"""The figures of Long & Bartlett 2024 for any training, from the records of a `lowland.curvature.Monitor`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowland.curvature import read_jsonl
from lowland.report.curves import overlay
from lowland.report.plots import draw_figure
from lowland.training.drawing import Figure
from lowland.training.figures import EDGE_OF_STABILITY, SHARPNESS

NO_EDGE = "no edge, which is known for SGD alone"

Records = Sequence[Mapping[str, Any]] | str | os.PathLike[str]


def draw_monitor(
    records: Records | Mapping[str, Records], directory: str | os.PathLike[str], *, title: str = "monitor"
) -> list[Path]:
    """Draw Hessian norm and edges, alignments, loss and m-sharpness over the steps, each as PNG and PDF.

    The first four are figures of Long & Bartlett 2024, *Sharpness-Aware Minimization and the Edge of Stability*.
    Several runs are drawn into the same axes, a colour for each. The heading says of a run that its edge isn't known
    (with Adam, for example), or wasn't reached, and of a monitor that it has made a single check. Where the Hessian
    norm lies on the edge, their ratio is drawn below.

    Args:
        records: ``monitor.records``, or the JSONL file that it wrote; a dict of several gives a colour to each.
        directory: made if it doesn't exist.
        title: the heading of every figure.

    Returns:
        The PNG files. Figures without values are left out.

    Raises:
        ValueError: if there is no record, or for a file that no monitor wrote.
    """
    named = records if isinstance(records, Mapping) else {"": records}
    found = {name: read_jsonl(one) if isinstance(one, str | os.PathLike) else one for name, one in named.items()}
    if not found or not all(found.values()):
        raise ValueError("there are no records to draw: has the monitor made a check yet?")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for figure in (*EDGE_OF_STABILITY, SHARPNESS):
        if not all(_known(found, curve.column) or figure.name == "hessian-norm" for curve in figure.curves):
            continue
        notes = [f"{name}: {note}" if name else note for name, lines in found.items() for note in _notes(figure, lines)]
        panel = overlay(_named(figure, found), found, next(iter(found)), notes)
        drawn.append(draw_figure(folder, figure.name, f"{figure.title} ({title})", [panel]))
    return [path for path in drawn if path is not None]


def _notes(figure: Figure, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the heading says of a run."""
    notes = [f"one check so far, at step {lines[0]['step']}"] if len(lines) == 1 else []
    if not any("edge" in curve.column for curve in figure.curves):
        return notes
    if any(line.get("lr") is not None for line in lines) and not any(line.get("gd_edge") is not None for line in lines):
        notes.append(NO_EDGE)
    elif figure.note is not None and len(lines) > 1:
        notes.append(figure.note([lines]))
    return [note for note in notes if note]


def _named(figure: Figure, panels: Mapping[str, Any]) -> Figure:
    """``figure`` with the edge without SAM labelled correctly: with momentum it isn't 2/η."""
    if not any(line.get("momentum") for lines in panels.values() for line in lines):
        return figure
    curves = (replace(c, label="edge without SAM") if c.column == "gd_edge" else c for c in figure.curves)
    return replace(figure, curves=tuple(curves))


def _known(panels: Mapping[str, Any], column: str) -> bool:
    return any(line.get(column) is not None for lines in panels.values() for line in lines)
