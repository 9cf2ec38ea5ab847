"""The paper's claims, each on the selected run of each method and seed."""

from collections.abc import Callable, Mapping

from lowland.papers.claims import Unfit, below_zero, between, judged, shown
from lowland.papers.springer2024.methods import SGD, selected, values, varied
from lowland.papers.springer2024.over_grid import LEAST_SEEDS, at_some_setting, trend
from lowland.papers.springer2024.over_training import THRESHOLD, at_the_threshold, over_time
from lowland.training import Claim, Outcome, Verdict
from lowland.training.statistics import Estimate

TRAINED = 0.02  # the training error of a network that the claims speak of
MARGIN = 0.01  # by which the easy feature's error may rise before SAM counts as paying for it (ours)
_SELECTED = "of the runs with the lowest validation error of each method and seed"


def difference(outcomes: Mapping[str, Outcome], first: tuple[str, str], second: tuple[str, str]) -> Estimate:
    """The mean over seeds of ``first`` − ``second``, each a method and a column; raises Unfit if there is none."""
    if others := varied(outcomes):
        raise Unfit(f"more varies than what is selected among: {', '.join(sorted(others))}")
    runs = selected(outcomes)
    for method, _ in (first, second):
        if method not in runs:
            raise Unfit(f"no run of {method} was trained to its end")
    ours, theirs = (values(outcomes, runs[method], column) for method, column in (first, second))
    return between(ours, theirs, f"no seed has runs of both {first[0]} and {second[0]}")


def smaller(first: tuple[str, str], second: tuple[str, str]) -> Callable[[Mapping[str, Outcome]], Verdict]:
    """Judges as `lowland.papers.claims.below_zero` does, of `LEAST_SEEDS` seeds."""
    return judged(lambda outcomes: below_zero(difference(outcomes, first, second), LEAST_SEEDS))


@judged
def no_price(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Whether SAM's error of the easy feature is at most `MARGIN` above SGD's.

    True if the 95 % interval of the difference lies below `MARGIN` and not above 0; false if it lies above 0; else
    null.
    """
    found = difference(outcomes, ("sam", "easy_error"), (SGD, "easy_error"))
    against = below_zero(Estimate(found.mean - MARGIN, found.standard_error, found.n), LEAST_SEEDS)
    if found.n < LEAST_SEEDS or found.interval is None:
        return Verdict(found.mean, None, against.reason)
    pays = found.interval[0] > 0
    return Verdict(found.mean, False if pays else against.passed, f"over {found.n} seeds: {shown(found)}")


def trained(outcomes: Mapping[str, Outcome]) -> str:
    """The claims' regime: SGD's selected runs end with a training error of at most `TRAINED`."""
    worst = max(values(outcomes, selected(outcomes).get(SGD, {}), "train_error").values(), default=0.0)
    if worst <= TRAINED:
        return ""
    return f"SGD's training error is {worst:.2g}, and the claim is about networks trained to {TRAINED:g} or less"


CLAIMS = (
    Claim(
        "hard-feature",
        f"SAM's probing error of the hard feature is below SGD's: mean difference, paired by seed, {_SELECTED}",
        "the experiments on feature quality", "interval < 0",
        smaller(("sam", "hard_error"), (SGD, "hard_error")), whole_grid=True, regime=trained,
    ),
    Claim(
        "easy-feature",
        f"It doesn't pay for it on the easy one: its probing error is less than {MARGIN:g} above SGD's (margin ours)",
        "the experiments on feature quality", f"interval < {MARGIN:g}, not above 0", no_price, whole_grid=True,
        regime=trained,
    ),
    Claim(
        "phantom-more-even",
        "The phantom importance weights are more evenly spread than the real ones: difference of their Gini "
        f"coefficients on SGD's networks, at the first check with a training error below {THRESHOLD:g} (ours)",
        "the section on importance weights", "interval < 0", at_the_threshold(SGD), whole_grid=True,
    ),
    Claim(
        "phantom-more-even-sam",
        "The same on SAM's networks",
        "the section on importance weights", "interval < 0",
        at_the_threshold("sam"), whole_grid=True,
    ),
    Claim(
        "phantom-over-training",
        "Where in training it holds on SGD's networks: the share of the checks at which it does",
        "the section on importance weights", None, over_time(SGD), whole_grid=True,
    ),
    Claim(
        "last-layer",
        "LSAM alone already balances: its probing error of the hard feature is below SGD's, paired by seed",
        "the section on the last layer", "interval < 0",
        smaller(("lsam", "hard_error"), (SGD, "hard_error")), whole_grid=True, regime=trained,
    ),
)  # fmt: skip

# Of a grid of ρ and η, whatever is selected.
GRID_CLAIMS = (
    Claim(
        "hard-feature-somewhere",
        "At a ρ and η of the grid SAM's probing error of the hard feature is below SGD's at the same η, paired by "
        "seed, corrected for the number of settings (ours)",
        "the experiments on feature quality", "corrected p <= 0.05, below", at_some_setting, whole_grid=True,
        regime=trained, grid="paper",
    ),
    Claim(
        "hard-feature-trend",
        "The probing error of the hard feature falls with ρ: slope of its line, mean over η, a seed at a time (ours)",
        "the experiments on feature quality", "interval < 0", trend, whole_grid=True, regime=trained, grid="paper",
    ),
)  # fmt: skip
