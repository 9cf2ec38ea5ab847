"""The claims of an experiment over a grid: the verdict at the selected settings, then where else each holds."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lowland.training.claims import Claim, Verdict
from lowland.training.experiment import Experiment
from lowland.training.outcome import Outcome
from lowland.training.selection import Selection
from lowland.training.statistics import estimate
from lowland.training.summary import SMOKE, claim_entry
from lowland.training.sweep.cells import Cell, cells_of
from lowland.training.sweep.points import Point, points_of
from lowland.training.sweep.selection import select
from lowland.values import Json, JsonObject
from lowland.wording import counted, describe, places


def judge_claims(
    experiment: Experiment, config: JsonObject, outcomes: Mapping[str, Outcome], varied: Sequence[str]
) -> list[dict[str, Json]]:
    """Every claim over the grid, for a summary: the parts of a run's claim, and where and how often it holds.

    The verdict is that at the settings that the experiment selects, by the rule of `lowland.training.sweep.selection`:
    the best of those at which the claim compares something (`points_of`). Where nothing is selected it is that of all
    points together. A claim that is about the whole grid is asked once, with all runs by their labels.

    Args:
        experiment: whose claims.
        config: of the sweep; one of smoke scale judges none.
        outcomes: label → run, in the order of the grid.
        varied: the settings that vary over it.
    """
    cells = cells_of(outcomes, varied)
    entries = list[dict[str, Json]]()
    for claim in experiment.claims:
        if config["scale"] == "smoke":
            points, came = list[Point](), _Came(SMOKE)
        elif claim.whole_grid:
            points, came = [], _Came(experiment.judge(claim, outcomes))
        else:
            points = points_of(claim, experiment, outcomes, varied)
            came = _came(claim, points, cells, experiment.selection)
        entries.append(
            {
                **claim_entry(experiment, config, claim, came.verdict),
                "at": came.at,
                "over_grid": _everywhere(claim, points),
                "counts": _counts([point.verdict for point in points] or [came.verdict]),
                "points": [point.entry() for point in points],
            }
        )
    return entries


@dataclass(frozen=True)
class _Came:
    """What a claim came to: the verdict, and the settings at which it is; None for all points together."""

    verdict: Verdict
    at: Mapping[str, Json] | None = None


def _came(claim: Claim, points: Sequence[Point], cells: Sequence[Cell], selection: Selection | None) -> _Came:
    among = [cell for cell in cells if any(point.lies_in(cell) for point in points)]
    best = select(cells, selection, among) if selection is not None else None
    if selection is None or best is None:
        return _Came(_together(claim, points, "point"))
    whole, what = select(cells, selection), "selected"
    if whole is not None and whole is not best:
        what = f"the best of these points; {describe(whole.settings)} is selected"
    text = f"{describe(best.settings)} ({what})" if best.settings else ""
    here = [point for point in points if point.lies_in(best)]
    return _Came(_together(claim, here, "seed"), {"settings": dict(best.settings), "text": text})


def _together(claim: Claim, points: Sequence[Point], noun: str) -> Verdict:
    """The verdict of several points: true or false where all that can be judged say so, null where they don't agree.

    Of points that differ in their ``noun`` ``"seed"`` alone the mean is measured, of others the median.
    """
    if len(points) == 1:
        return points[0].verdict
    values = [point.verdict.measured for point in points if point.verdict.measured is not None]
    values = [value for value in values if math.isfinite(value)]
    mean = estimate(values) if noun == "seed" else None
    measured = mean.mean if mean else median(values) if values else None
    interval = mean.interval if mean else None
    if claim.threshold is None:
        what = f"{'mean' if mean else 'median'} of {counted(len(values), noun)}"
        return Verdict(measured, None, what if values else _commonest(points), interval)
    every = counted(len(points), noun)
    holds, fails, undecided = _split(points)
    if not holds and not fails:
        why = f"of all {every}: {_commonest(points)}" if points else _commonest(points)
        return Verdict(measured, None, why, interval)
    reason = f"of {every}: holds {len(holds)}, fails {len(fails)}, undecided {len(undecided)}"
    return Verdict(measured, None if holds and fails else bool(holds), reason, interval)


def _split(points: Sequence[Point]) -> tuple[list[Point], list[Point], list[Point]]:
    """Those at which a claim holds, fails and is undecided."""
    holds, fails, undecided = ([p for p in points if p.verdict.passed is passed] for passed in (True, False, None))
    return holds, fails, undecided


def _counts(verdicts: Sequence[Verdict]) -> dict[str, Json]:
    judged = [verdict for verdict in verdicts if verdict.passed is not None]
    return {
        "points": len(verdicts),
        "judged": len(judged),
        "holds": sum(verdict.passed is True for verdict in judged),
    }


def _everywhere(claim: Claim, points: Sequence[Point]) -> str:
    """``holds at 3 of 5 points, fails at rho = 2, undecided at rho = 0.5``; what was measured, without a threshold."""
    if len(points) < 2:
        return ""
    if claim.threshold is None:
        values = [point.verdict.measured for point in points if point.verdict.measured is not None]
        return f"{min(values):.4g} to {max(values):.4g} at {counted(len(values), 'point')}" if values else ""
    holds, fails, undecided = _split(points)
    said = [f"holds at {len(holds)} of {counted(len(points), 'point')}"]
    if fails:
        said.append(f"fails at {places([point.settings for point in fails])}")
    if undecided:
        said.append(f"undecided at {places([point.settings for point in undecided])}")
    return ", ".join(said)


def _commonest(points: Sequence[Point]) -> str:
    """Why most of the points say nothing: reasons that differ in their numbers alone are one."""
    reasons = [point.verdict.reason for point in points if point.verdict.reason]
    if not reasons:
        return "its judge gives no reason" if points else "the grid has no runs"
    head, count = Counter(reason.partition(": ")[0] for reason in reasons).most_common(1)[0]
    alike = [reason for reason in reasons if reason.partition(": ")[0] == head]
    reason = alike[0] if len(set(alike)) == 1 else head
    return reason if count == len(points) else f"{reason} ({count} of {len(points)})"
