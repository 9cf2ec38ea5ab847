"""SAM against SGD at each ρ and η of a grid, paired by seed, with a correction for looking at several, and a trend.

Where validation errors of all runs are almost 0, selection by them is a coin toss among runs. So beside the claims
about selected runs stand two about the whole grid, by `lowland.training.sweep.differences`.
"""

from collections.abc import Mapping

from lowland.papers.claims import Unfit, below_zero, judged
from lowland.papers.springer2024.methods import SGD, method_of, varied
from lowland.training import Outcome, Verdict
from lowland.training.sweep.cells import Cell, cells_of
from lowland.training.sweep.differences import differences, trend_over_all

LEAST_SEEDS = 5
MEASURE = "hard_error"


def cells(outcomes: Mapping[str, Outcome]) -> list[Cell]:
    """The runs of SGD and SAM by η and ρ; raises Unfit if more varies."""
    if others := varied(outcomes):
        raise Unfit(f"more varies than what is compared: {', '.join(sorted(others))}")
    kept = {label: outcome for label, outcome in outcomes.items() if method_of(outcome.settings) in (SGD, "sam")}
    return cells_of(kept, ("lr", "rho", "seed"))


@judged
def at_some_setting(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Whether SAM's error is below SGD's at a setting, corrected for all of them.

    The measured value is the mean difference where the corrected p-value is lowest. True if there is a setting below,
    false if there is one above and none below, else null.
    """
    points = differences(cells(outcomes), MEASURE)
    found = [
        (each.corrected, each.difference, each)
        for each in points
        if each.corrected is not None and each.difference is not None
    ]
    if not found:
        raise Unfit("there is no step size with two seeds or more of both SAM and SGD")
    p, best, at = min(found, key=lambda one: (one[0], one[1].mean))
    below, above, diverged = (sum(each.verdict == what for each in points) for what in ("below", "above", "diverged"))
    reason = (
        f"{len(found)} settings: below at {below}, above at {above}; lowest corrected p {p:.2g} at "
        f"η = {at.settings['lr']:g}, ρ = {at.settings['rho']:g}"
    ) + (f"; {diverged} more diverged" if diverged else "")
    if min(between.n for _, between, _ in found) < LEAST_SEEDS:
        return Verdict(best.mean, None, f"it takes {LEAST_SEEDS} seeds at every setting; {reason}")
    return Verdict(best.mean, True if below else False if above else None, reason)


@judged
def trend(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Whether SAM's probing error falls with ρ: its slope on log10 ρ, mean over η, of each seed; over the seeds."""
    found = trend_over_all(cells(outcomes), MEASURE)
    if found is None:
        raise Unfit("a trend takes three values of ρ above 0, and a seed that has been trained at all of them")
    return below_zero(found, LEAST_SEEDS)
