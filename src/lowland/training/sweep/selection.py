"""The best settings of a grid: by a rule fixed beforehand, over all seeds, and never by test data."""

import math
from collections.abc import Mapping, Sequence

from lowland.training.selection import Selection
from lowland.training.statistics import paired_difference, to_compare
from lowland.training.sweep.cells import Cell
from lowland.values import Json
from lowland.wording import places


def rule(selection: Selection) -> str:
    """How the settings are selected, in words."""
    data = "on validation data"
    if selection.on == "training":
        data = "on training data, because the experiment holds none out"
    ties = f"the lower mean {selection.ties}, then " if selection.ties else ""
    return (
        "Of the settings that have as many seeds as any other, and whose every seed was trained to its end (none "
        f"diverged, failed or was stopped) and has a finite {selection.metric}: those with the lowest mean over seeds "
        f"of the final {selection.metric}, measured {data}. Between equals (up to rounding): {ties}the earlier in the "
        "grid. "
        "Test data play no part."
    )


def select(cells: Sequence[Cell], selection: Selection, among: Sequence[Cell] | None = None) -> Cell | None:
    """The best of the ``cells`` of a grid by `rule`, or None if none can be; of those in ``among``, if it is given."""
    eligible = _eligible(cells, selection, cells if among is None else among)
    # The first of equals, as min has it, is the earlier in the grid.
    return min(eligible, key=lambda cell: (_mean(cell, selection.metric), _mean(cell, selection.ties)), default=None)


def _eligible(cells: Sequence[Cell], selection: Selection, among: Sequence[Cell]) -> list[Cell]:
    most = max((len(cell.runs) for cell in cells), default=0)
    return [cell for cell in among if cell.complete and len(cell.runs) == most == len(cell.values(selection.metric))]


def _tied(cells: Sequence[Cell], selection: Selection, best: Cell) -> dict[str, Json]:
    """Which settings have the same mean of the metric as the ``best``, and what decided, in words."""

    def equal(others: Sequence[Cell], metric: str | None) -> list[Cell]:
        return [cell for cell in others if cell is not best and _mean(cell, metric) == _mean(best, metric)]

    tied = equal(_eligible(cells, selection, cells), selection.metric)
    if not tied:
        return {"settings": [], "text": ""}
    decides = "the earlier in the grid is taken"
    if not equal(tied, selection.ties):
        decides = f"the lowest mean {selection.ties} decides"
    elif selection.ties and len(equal(tied, selection.ties)) < len(tied):
        decides = f"the lowest mean {selection.ties} decides, and of equals in that {decides}"
    settings = [dict(cell.settings) for cell in tied]
    return {"settings": settings, "text": f"tied with {places(settings)} in mean {selection.metric}: {decides}"}


def summarize_selection(cells: Sequence[Cell], selection: Selection | None) -> dict[str, Json]:
    """What a summary says of the selected settings: null, with the reason, where there are none."""
    if selection is None:
        return {"rule": None, "selected": None, "reason": "the experiment names no metric to select by"}
    best = select(cells, selection)
    head = {"rule": rule(selection), "metric": selection.metric, "on": selection.on}
    if best is None:
        reason = f"no settings have all their seeds trained to the end with a finite {selection.metric}"
        return {**head, "selected": None, "reason": reason}
    return {
        **head,
        "selected": dict(best.settings),
        "runs": list(best.runs),
        "tied": _tied(cells, selection, best),
        "reason": "",
        **_estimated(best, selection.metric),
        "test": _test(best, selection),
        "by_rho": _by_rho(cells, selection),
        "differences": [
            {"settings": dict(cell.settings), **_difference(cell, best, selection.metric)}
            for cell in cells
            if cell is not best
        ],
    }


def _mean(cell: Cell, metric: str | None) -> float:
    """For sorting; what is not there comes last."""
    estimate = cell.estimate(metric) if metric else None
    return to_compare(estimate.mean) if estimate else math.inf


def _estimated(cell: Cell, metric: str) -> dict[str, Json]:
    estimate = cell.estimate(metric)
    nothing: dict[str, Json] = {"mean": None, "standard_error": None, "interval_95": None, "n": 0}
    return estimate.entry(interval=True) if estimate else nothing


def _test(best: Cell, selection: Selection) -> dict[str, Json]:
    if selection.test is None:
        return {"metric": None, "mean": None, "reason": "the experiment measures nothing on test data"}
    estimated = _estimated(best, selection.test)
    reason = "" if estimated["n"] else f"no run of the selected settings recorded a finite {selection.test}"
    return {"metric": selection.test, **estimated, "reason": reason}


def _by_rho(cells: Sequence[Cell], selection: Selection) -> dict[str, Json]:
    """The best settings with ρ = 0 and those with ρ > 0, each chosen by the same rule, and what lies between them."""
    sides: Mapping[str, list[Cell]] = {
        "without_sam": [cell for cell in cells if cell.rho == 0],
        "with_sam": [cell for cell in cells if cell.rho > 0],
    }
    chosen = {side: select(cells, selection, among) for side, among in sides.items()}
    entry: dict[str, Json] = {
        side: {"settings": dict(cell.settings), **_estimated(cell, selection.metric)} if cell else None
        for side, cell in chosen.items()
    }
    without, sam = chosen["without_sam"], chosen["with_sam"]
    if sam is None or without is None:
        lacking = "ρ > 0" if sam is None else "ρ = 0"
        there = sides["with_sam" if sam is None else "without_sam"]
        why = "no settings that can be selected" if there else "no settings"
        return {**entry, "difference": None, "reason": f"the grid has {why} with {lacking}"}
    entry.update(_difference(sam, without, selection.metric))
    if selection.test is not None:
        entry["test_difference"] = _difference(sam, without, selection.test)["difference"]
    return entry


def _difference(first: Cell, second: Cell, metric: str) -> dict[str, Json]:
    """``first`` minus ``second``, paired by seed."""
    difference = paired_difference(first.values(metric), second.values(metric))
    if difference is None:
        return {"difference": None, "reason": f"the two have no seed in common that ended with a finite {metric}"}
    return {"difference": difference.entry(interval=True), "reason": ""}
