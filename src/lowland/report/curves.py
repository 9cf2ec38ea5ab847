"""A `Figure` as panels: one for each arm, or all arms in one."""

from collections.abc import Mapping, Sequence
from typing import Any

from lowland.report.coincidence import points
from lowland.training import Figure, Line, Panel, over_seeds

Records = Sequence[Mapping[str, Any]]


def panel_of(figure: Figure, runs: Mapping[int, Records], title: str, note: str = "") -> Panel:
    """The curves of one arm, over its seeds.

    Args:
        figure: which curves.
        runs: seed → its records.
        title: the heading.
        note: a further line of it, beside what the figure itself says of the records.
    """
    lines = [
        over_seeds({seed: _points(records, curve.column) for seed, records in runs.items()}, curve.label, curve.style)
        for curve in figure.curves
    ]
    notes = [note, figure.note(list(runs.values())) if figure.note is not None else ""]
    return _panel(figure, title, lines, "; ".join(dict.fromkeys(filter(None, notes))))


def overlay(figure: Figure, records: Mapping[str, Records], against: str = "", notes: Sequence[str] = ()) -> Panel:
    """The curves of all arms in one panel: a colour for each arm, the style says which curve.

    Args:
        figure: which curves.
        records: arm → its records.
        against: the arm that the others are compared with, if there is but one curve.
        notes: of the heading.
    """
    if len(figure.curves) == 1:
        (curve,) = figure.curves
        lines = [_line(found, curve.column, arm or curve.label, curve.style) for arm, found in records.items()]
        names = [against]
    else:
        lines = [
            _line(found, curve.column, f"{arm}: {curve.label}" if arm else curve.label, curve.style, arm)
            for arm, found in records.items()
            for curve in figure.curves
        ]
        chosen = [curve.label for column in figure.against for curve in figure.curves if curve.column == column]
        names = [f"{arm}: {label}" if arm else label for arm in records for label in chosen]
    return _panel(figure, "", lines, "; ".join(notes), names)


def _panel(figure: Figure, title: str, lines: Sequence[Line], note: str, against: Sequence[str] = ()) -> Panel:
    names = against or [curve.label for column in figure.against for curve in figure.curves if curve.column == column]
    there = [line for line in lines if points(line, figure.log)]
    return Panel(
        title, "step", figure.ylabel, there, logy=figure.log, against=names, note=note,
        bounds=None if figure.log else (0.0, 1.0),
    )  # fmt: skip


def _line(records: Records, column: str, label: str, style: str, tint: str = "") -> Line:
    found = _points(records, column)
    return Line(list(found), list(found.values()), label, style, tint=tint)


def _points(records: Records, column: str) -> dict[float, float]:
    return {record["step"]: record[column] for record in records if record.get(column) is not None}
