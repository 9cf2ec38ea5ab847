"""Where curves lie on each other: equal ones are named instead of drawn, near ones get a panel of their difference."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lowland.report.reach import span
from lowland.training import Level, Line, Panel, banded
from lowland.training.statistics import paired_difference

_NEAR = 0.02  # of the height of the axes: about the width of two lines
_BAND = 5  # seeds, from which on there is a band: of three Student's factor is 4.3, and it would fill the panel
_SHARE = 0.5  # of the points that two lines have in common: where so many are near, they lie on each other

Extent = tuple[float, float]


def finite(value: float | None, log: bool = False) -> bool:
    """Whether there is a place for ``value`` on an axis."""
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def points(line: Line, log: bool = False, logx: bool = False) -> dict[float, float]:
    """The points of a line, x → y, for which there is a place."""
    found = zip(line.x, line.y, strict=True)
    return {x: y for x, y in found if x is not None and y is not None and finite(x, logx) and finite(y, log)}


def without_equals(panel: Panel) -> tuple[Panel, str]:
    """The panel without the labelled lines that equal an earlier one, and what its heading says of them."""
    kept, drawn, short = list[Line](), list[Line](), dict[str, str]()
    equals: dict[str, list[str]] = {}
    for line in panel.lines:
        same = next((other for other in drawn if line.label and _equal(line, other)), None)
        if same is None:
            kept.append(line)
            if line.label:
                drawn.append(line)
        else:
            equals.setdefault(same.label, []).append(line.label)
            short[same.label] = same.label.removeprefix(f"{line.tint}: ")
    gone = {label for several in equals.values() for label in several}
    kept = [line for line in kept if line.beside not in gone]
    if len(gone) > 1 and len(equals) == 1 and len(drawn) == 1:
        said = f"all {len(gone) + 1} are the same"
    else:
        said = "; ".join(" = ".join([*others, short[label]]) for label, others in equals.items())
    return replace(panel, lines=kept), said


def _equal(line: Line, other: Line) -> bool:
    # One point says nothing of a curve.
    return len(points(line)) > 1 and points(line) == points(other) and line.seeds == other.seeds


def extent(panels: Sequence[Panel], log: bool) -> Extent | None:
    """The lowest and the highest y of panels that share a vertical axis."""
    found = [y for panel in panels for line in panel.lines for y in points(line, log).values()]
    found += [y for panel in panels for y in panel.bounds or ()]
    return span(found, (), [level for panel in panels for level in panel.levels if finite(level.value, log)], log)


def difference(panel: Panel, over: Extent) -> Panel | None:
    """How far the lines of a panel are from those that they are compared with; None unless some coincide.

    Of lines over the same seeds it is the mean of the differences seed by seed, with its 95 % interval from five seeds
    on, else with those of each seed; of ratios the geometric mean.

    Args:
        panel: without equal lines.
        over: the range of its vertical axis.
    """
    labelled = [line for line in panel.lines if line.label]
    drawn, against = list[Line](), list[str]()
    for tint in dict.fromkeys(line.tint for line in labelled):
        group = [line for line in labelled if line.tint == tint]
        references = [line for name in panel.against for line in group if line.label == name]
        compared = [line for line in group if line not in references]
        for line in compared if references else ():
            near = [other for other in group if other is not line and _coincide(line, other, over, panel.logy)]
            reference = next((other for other in references if other in near), references[0])
            between = _between(line, reference, panel.logy) if near else None
            if between is not None:
                drawn.append(between)
                against.append(reference.label.removeprefix(f"{tint}: "))
    return _panel(panel, drawn, ", ".join(dict.fromkeys(against))) if drawn else None


def _panel(panel: Panel, lines: Sequence[Line], against: str) -> Panel:
    values = [y for line in lines for y in points(line).values()]
    wide = panel.logy and max(values) > 10 * min(values)
    what, none = ("ratio", 1.0) if panel.logy else ("difference", 0.0)
    return Panel(
        panel.title, panel.xlabel, f"{panel.ylabel}\n{what} to {against}", lines,
        logx=panel.logx, logy=wide, levels=(Level(none, "no difference", style="-", within=True),),
    )  # fmt: skip


def _common(line: Line, other: Line, log: bool) -> list[float]:
    """The x at which both have a value; none unless those are at least two, and half of what either has."""
    first, second = points(line, log), points(other, log)
    shared = [x for x in first if x in second]
    return shared if len(shared) >= max(2, _SHARE * max(len(first), len(second))) else []


def _coincide(line: Line, other: Line, over: Extent, log: bool) -> bool:
    """Whether two lines can't be told apart for half of their length or more, on axes of the range ``over``."""
    place = math.log10 if log else float
    height = place(over[1]) - place(over[0])
    first, second = points(line, log), points(other, log)
    shared = _common(line, other, log)
    near = [x for x in shared if abs(place(first[x]) - place(second[x])) <= _NEAR * height]
    return bool(shared) and len(near) >= _SHARE * len(shared)


def _between(line: Line, reference: Line, log: bool) -> Line | None:
    """``line`` less ``reference``, or over it, where both are there."""
    shared = _common(line, reference, log)
    if not shared:
        return None
    sides = {x: [_by_seed(each, x, log) for each in (line, reference)] for x in shared}
    estimates = {x: mean for x, pair in sides.items() if (mean := paired_difference(*pair)) is not None}
    if estimates:
        made = banded(estimates, line.label, line.style)
        seeds = {
            seed: [first[seed] - second[seed] if seed in first and seed in second else None
                   for first, second in (sides[x] for x in estimates)]
            for seed in line.seeds if seed in reference.seeds
        }  # fmt: skip
        if 1 < len(seeds) < _BAND:
            made = replace(made, low=(), high=(), seeds=seeds)
        if log:
            made = replace(
                made, y=_ratios(made.y), low=_ratios(made.low), high=_ratios(made.high),
                seeds={seed: _ratios(values) for seed, values in made.seeds.items()},
            )  # fmt: skip
        return replace(made, tint=line.tint)
    first, second = points(line, log), points(reference, log)
    y = [first[x] / second[x] if log else first[x] - second[x] for x in shared]
    return Line(shared, y, line.label, line.style, tint=line.tint)


def _ratios(logarithms: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else math.exp(value) for value in logarithms]


def _by_seed(line: Line, x: float, log: bool) -> dict[int, float]:
    """Seed → the value at ``x``, or its logarithm, of the seeds that have one there."""
    at = list(line.x).index(x)
    there = {seed: values[at] for seed, values in line.seeds.items()}
    return {seed: math.log(y) if log else y for seed, y in there.items() if y is not None and finite(y, log)}
