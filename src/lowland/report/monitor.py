"""The paper's figures of one's own training, from what a `lowland.curvature.Monitor` recorded."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowland.curvature import read_jsonl
from lowland.report.figures import draw
from lowland.training.figures import EDGE_OF_STABILITY, SHARPNESS

Records = Sequence[Mapping[str, Any]] | str | os.PathLike[str]


def draw_monitor(
    records: Records | Mapping[str, Records], directory: str | os.PathLike[str], *, title: str = "monitor"
) -> list[Path]:
    """Hessian norm and edges, alignments, loss and m-sharpness over the steps, each as PNG and PDF.

    (Long & Bartlett 2024, *Sharpness-Aware Minimization and the Edge of Stability*, draw the first four.)

    Args:
        records: ``monitor.records``, or the JSONL file it wrote; several by name to have a panel for each.
        directory: made if need be.
        title: stands above every figure.

    Returns:
        The PNG files. Figures of which there are no values are left out.

    Raises:
        ValueError: without a record, or for a file that no monitor wrote.
    """
    named = records if isinstance(records, Mapping) else {"": records}
    panels = {name: read_jsonl(one) if isinstance(one, str | os.PathLike) else one for name, one in named.items()}
    if not panels or not all(panels.values()):
        raise ValueError("there are no records to draw: has the monitor made a check yet?")
    figures = [
        figure
        for figure in (*EDGE_OF_STABILITY, SHARPNESS)
        if all(_known(panels, curve.column) or figure.name == "hessian-norm" for curve in figure.curves)
    ]
    return draw(Path(directory), figures, panels, {name: name for name in panels}, title)


def _known(panels: Mapping[str, Any], column: str) -> bool:
    return any(line.get(column) is not None for lines in panels.values() for line in lines)
