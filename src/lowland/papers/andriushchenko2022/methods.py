"""What is compared: the arms, the runs of a grid by method and ρ, means over seeds."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from lowland.papers.claims import Unfit, last
from lowland.training import Outcome, repeats
from lowland.training.statistics import estimate, to_compare

ARMS: Mapping[str, Mapping[str, Any]] = {"erm": {"rho": 0.0}, "sam": {"ascent": "batch"}}
FIGURE_1_ARMS: Mapping[str, Mapping[str, Any]] = {
    **ARMS,
    "n-sam": {"ascent": "training"},
    "random": {"ascent": "random"},
}
#: Method → what figure 1 calls it.
METHODS = {"erm": "ERM", "sam": "128-SAM", "n-sam": "n-SAM", "random": "random"}
_BY_ASCENT = {"batch": "sam", "training": "n-sam", "random": "random"}


def method(outcome: Outcome) -> str:
    """``"erm"``, ``"sam"``, ``"n-sam"`` or ``"random"``: what its settings make it."""
    return "erm" if outcome.settings.rho == 0 else _BY_ASCENT[getattr(outcome.settings, "ascent", "batch")]


def by_rho(outcomes: Mapping[str, Outcome], kind: str) -> dict[float, list[Outcome]]:
    """ρ → the runs of a method, in ascending order of ρ; those with m below the batch are left out."""
    found: dict[float, list[Outcome]] = {}
    for outcome in outcomes.values():
        whole = getattr(outcome.settings, "m", 0) >= getattr(outcome.settings, "batch_size", 0)
        if method(outcome) == kind and (whole or kind != "sam"):
            found.setdefault(outcome.settings.rho, []).append(outcome)
    return dict(sorted(found.items()))


def errors_at_best(outcomes: Mapping[str, Outcome], kind: str) -> tuple[float, dict[int, float]]:
    """The ρ with the lowest mean validation error (then loss), and seed → test error there.

    Among those ρ whose every seed was trained to its end, and which have the most seeds.

    Raises:
        Unfit: if there is none.
    """
    eligible = {rho: runs for rho, runs in by_rho(outcomes, kind).items() if all(run.status == "done" for run in runs)}
    most = max(map(len, eligible.values()), default=0)
    eligible = {rho: runs for rho, runs in eligible.items() if len(runs) == most}
    if not eligible:
        raise Unfit(f"no run of {METHODS[kind]} was trained to its end: lowland sweep … --grid figure-1")
    error, loss, test = last("validation_error"), last("validation_loss"), last("test_error")

    def score(rho: float) -> tuple[float, float]:
        validation, beside = (fmean(map(measure, eligible[rho])) for measure in (error, loss))
        return to_compare(validation), to_compare(beside)

    rho = min(eligible, key=score)
    return rho, {outcome.settings.seed: test(outcome) for outcome in eligible[rho]}


def at_best_rho(outcomes: Mapping[str, Outcome], kind: str) -> dict[int, float]:
    """Seed → test error at the best ρ, as `errors_at_best`."""
    return errors_at_best(outcomes, kind)[1]


def over_seeds(kinds: Sequence[str]) -> Callable[[Mapping[str, Outcome]], dict[str, Any]]:
    """A digest: ``over_seeds``, kind of arm → column of the last records → mean, standard error and n.

    Of the seeds that were trained to their end and have a finite number there; None for the standard error of one.
    """

    def digest(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        return {"over_seeds": {kind: _estimates(outcomes, kind) for kind in kinds}}

    return digest


def _estimates(outcomes: Mapping[str, Outcome], kind: str) -> dict[str, Any]:
    ends = [
        outcome.records[-1]
        for label, outcome in outcomes.items()
        if repeats(label, kind) and outcome.status == "done" and outcome.records
    ]
    values: dict[str, list[float]] = {}
    for end in ends:
        for column, value in end.items():
            if column not in ("step", "epoch") and isinstance(value, float):
                values.setdefault(column, []).append(value)
    return {column: found.entry() for column, several in values.items() if (found := estimate(several)) is not None}
