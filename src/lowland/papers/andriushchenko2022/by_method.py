"""The runs of a grid, or of a run, by method and ρ."""

from collections.abc import Mapping
from statistics import fmean

from lowland.papers.claims import Unfit, last
from lowland.training import Outcome

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
    rho = min(eligible, key=lambda rho: (fmean(map(error, eligible[rho])), fmean(map(loss, eligible[rho]))))
    return rho, {outcome.settings.seed: test(outcome) for outcome in eligible[rho]}


def at_best_rho(outcomes: Mapping[str, Outcome], kind: str) -> dict[int, float]:
    """Seed → test error at the best ρ, as `errors_at_best`."""
    return errors_at_best(outcomes, kind)[1]
