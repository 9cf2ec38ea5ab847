"""Successive halving: hopeless settings are given up early (Jamieson & Talwalkar 2016)."""

from collections.abc import Mapping
from statistics import fmean

from lowland.training.outcome import Outcome
from lowland.training.selection import Selection
from lowland.training.settings import Settings
from lowland.training.statistics import to_compare


def rungs(settings: Settings, factor: int) -> list[int]:
    """The steps at which settings are compared: steps/factor, steps/factor², ..., in order, each one of a check."""
    found = []
    step = settings.steps // factor
    while step >= settings.check_every:
        found.append(step - step % settings.check_every)
        step //= factor
    return sorted(set(found))


def losers(outcomes: Mapping[str, Outcome], selection: Selection, step: int, factor: int) -> set[str]:
    """Labels of the runs whose settings are not among the best 1/``factor`` at ``step``.

    Settings that differ in the seed alone stand or fall together, by the mean of their metric over the seeds; one
    with a diverged run falls.
    """
    by_settings: dict[tuple[object, ...], dict[str, Outcome]] = {}
    for label, outcome in outcomes.items():
        rest = tuple((name, value) for name, value in vars(outcome.settings).items() if name != "seed")
        by_settings.setdefault(rest, {})[label] = outcome
    scores = {rest: _score(runs, selection, step) for rest, runs in by_settings.items()}
    ranked = sorted(scores, key=lambda rest: scores[rest])
    kept = set(ranked[: max(1, -(-len(ranked) // factor))])
    return {label for rest, runs in by_settings.items() if rest not in kept for label in runs}


def _score(runs: Mapping[str, Outcome], selection: Selection, step: int) -> float:
    values = []
    for outcome in runs.values():
        value = next((record.get(selection.metric) for record in outcome.records if record["step"] == step), None)
        if value is None or (outcome.diverged_at is not None and outcome.diverged_at <= step):
            return float("inf")
        values.append(value)
    return to_compare(fmean(values))
