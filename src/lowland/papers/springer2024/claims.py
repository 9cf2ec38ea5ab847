"""Which run of each method counts, the table of what came out, and the paper's claims.

Most claims are about the selected run of each method and seed. Where validation errors of all runs are almost 0,
selection by them is a coin toss among runs, so beside these stand two about a whole grid of ρ and η
(`lowland.training.sweep.differences`): SAM against SGD at each setting, corrected for looking at several, and a trend.

The phantom importance weights are judged while there still is something to balance. Late in training all losses are
almost 0, and a few examples have nearly all weight, at w and at w + e. So their claim is about the first check at which
a run's training error is below `THRESHOLD`. By then the network has its features, and the losses have not yet vanished.
The rule was fixed before any Gini coefficient over training had been seen.
"""

import math
from collections.abc import Mapping, Sequence

from lowland.papers import claims
from lowland.papers.claims import (
    NOT_IN_PAPER,
    OURS_BEFORE,
    Judge,
    Unfit,
    below_zero,
    between,
    judged,
    last,
    reached,
    shown,
    trained_to,
)
from lowland.papers.springer2024.methods import METHODS, SGD, method_of, toy_arm
from lowland.papers.springer2024.settings import TOY_RHO
from lowland.training import Claim, Outcome, Record, Reference, TableRow, Verdict
from lowland.training.statistics import Estimate, estimate
from lowland.training.sweep.cells import Cell, cells_of
from lowland.training.sweep.differences import differences, trend_over_all

# What the table says, by column of the records.
MEASURES = {
    "hard_error": "hard feature",
    "easy_error": "easy feature",
    "worst_group_error": "worst group",
    "test_error": "test error",
    "gini_real": "Gini, real",
    "gini_phantom": "Gini, phantom",
}
GROUPED_MEASURES = {
    **MEASURES,
    "group_balanced_error": "groups balanced",
    "adjusted_error": "groups as in training",
    "reweighted_worst_group_error": "worst group, reweighted",
}
TRAINED = 0.02  # the training error of a network that the claims speak of
MARGIN = 0.01  # by which the easy feature's error may rise before SAM counts as paying for it (ours)
_SELECTED = "of the runs with the lowest validation error of each method and seed"
THRESHOLD = 0.01  # the training error below which the importance weights are judged
LEAST_SEEDS = 5


def varied(outcomes: Mapping[str, Outcome]) -> set[str]:
    """The settings in which the runs differ, but for method, seed, η and ρ: among these one run is selected."""
    first, *others = [vars(outcome.settings) for outcome in outcomes.values()]
    names = {name for other in others for name, value in other.items() if value != first[name]}
    return names - {"method", "seed", "lr", "rho"}


def selected(outcomes: Mapping[str, Outcome]) -> dict[str, dict[int, str]]:
    """Method → seed → label of its run with the lowest final validation error.

    Of equals the one with the lower validation loss, then the earlier. Runs that have not ended, or have diverged, are
    no candidates.
    """
    best: dict[str, dict[int, str]] = {}
    scores: dict[str, tuple[float, float]] = {}
    for label, outcome in outcomes.items():
        if outcome.status != "done" or not outcome.records:
            continue
        error, loss = (outcome.records[-1].get(f"validation_{column}") for column in ("error", "loss"))
        if error is None or loss is None or not (math.isfinite(error) and math.isfinite(loss)):
            continue
        scores[label] = score = float(error), float(loss)
        of_method = best.setdefault(method_of(outcome.settings), {})
        if (seed := outcome.settings.seed) not in of_method or score < scores[of_method[seed]]:
            of_method[seed] = label
    return {name: best[name] for name in (SGD, *METHODS) if name in best}


def values(outcomes: Mapping[str, Outcome], runs: Mapping[int, str], column: str) -> dict[int, float]:
    """Seed → finite entry of the last record of its run."""
    found = {seed: outcomes[label].records[-1].get(column) for seed, label in runs.items()}
    return {seed: float(value) for seed, value in found.items() if value is not None and math.isfinite(value)}


def table(outcomes: Mapping[str, Outcome], measures: Mapping[str, str] = MEASURES) -> Sequence[TableRow]:
    """A row for each method, of the runs that are `selected`; none over a grid of other settings than those."""
    if not outcomes or varied(outcomes):
        return []
    return [
        TableRow(name, runs, {title: values(outcomes, runs, column) for column, title in measures.items()})
        for name, runs in selected(outcomes).items()
    ]


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


def smaller(first: tuple[str, str], second: tuple[str, str]) -> Judge:
    """Judges as `lowland.papers.claims.below_zero` does, of `LEAST_SEEDS` seeds."""
    return judged(lambda outcomes: below_zero(difference(outcomes, first, second), LEAST_SEEDS))


@judged
def no_price(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Whether SAM's error of the easy feature is at most `MARGIN` above SGD's.

    True if the whole 95 % interval of the difference lies below `MARGIN`, false if it lies above; else null. Where no
    run of either makes an error it holds vacuously: there is nothing to pay.
    """
    found = difference(outcomes, ("sam", "easy_error"), (SGD, "easy_error"))
    runs = selected(outcomes)
    if found.n >= LEAST_SEEDS and not any(any(values(outcomes, runs[m], "easy_error").values()) for m in ("sam", SGD)):
        return Verdict(found.mean, True, f"vacuously: both errors are 0 with each of {found.n} seeds")
    against = below_zero(Estimate(found.mean - MARGIN, found.standard_error, found.n), LEAST_SEEDS)
    if found.n < LEAST_SEEDS or found.interval is None:
        return Verdict(found.mean, None, against.reason, found.interval)
    return Verdict(found.mean, against.passed, f"over {found.n} seeds: {shown(found)}", found.interval)


def trained(outcomes: Mapping[str, Outcome]) -> str:
    """The claims' regime: SGD's selected runs end with a training error of at most `TRAINED`."""
    ends = values(outcomes, selected(outcomes).get(SGD, {}), "train_error").values()
    return trained_to(TRAINED, ends, "SGD's training error")


def _cells(outcomes: Mapping[str, Outcome]) -> list[Cell]:
    """The runs of SGD and SAM by η and ρ; raises Unfit if more varies."""
    if others := varied(outcomes):
        raise Unfit(f"more varies than what is compared: {', '.join(sorted(others))}")
    kept = {label: outcome for label, outcome in outcomes.items() if method_of(outcome.settings) in (SGD, "sam")}
    return cells_of(kept, ("lr", "rho", "seed"))


@judged
def at_some_setting(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Whether SAM's error is below SGD's at a setting, corrected for all of them.

    The measured value is the mean difference where the corrected p-value is lowest. True if there is a setting below,
    false if all are above, else null.
    """
    points = differences(_cells(outcomes), "hard_error")
    found = [
        (each.corrected, each.difference, each)
        for each in points
        if each.corrected is not None and each.difference is not None
    ]
    if not found:
        raise Unfit("there is no step size with two seeds or more of both SAM and SGD")
    p, best, at = min(found, key=lambda one: (one[0], one[1].mean))
    below, above = (sum(each.stands and each.verdict == side for each in points) for side in ("below", "above"))
    diverged = sum(each.verdict == "diverged" for each in points)
    reason = (
        f"{len(found)} settings: below at {below}, above at {above}; lowest corrected p {p:.2g} at "
        f"η = {at.settings['lr']:g}, ρ = {at.settings['rho']:g}"
    ) + (f"; {diverged} more diverged" if diverged else "")
    if min(gap.n for _, gap, _ in found) < LEAST_SEEDS:
        return Verdict(best.mean, None, f"it takes {LEAST_SEEDS} seeds at every setting; {reason}")
    return Verdict(best.mean, True if below else False if above == len(found) else None, reason)


@judged
def trend(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Whether SAM's probing error falls with ρ: its slope on log10 ρ, mean over η, of each seed; over the seeds."""
    found = trend_over_all(_cells(outcomes), "hard_error")
    if found is None:
        raise Unfit("a trend takes three values of ρ above 0, and a seed that has been trained at all of them")
    return below_zero(found, LEAST_SEEDS)


def at_the_threshold(method: str) -> Judge:
    """Judges the mean of Gini(phantom) − Gini(real) over the seeds, each at its first check below `THRESHOLD`."""

    @judged
    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        runs = _runs(outcomes, method)
        below = [[record for record in records if record["train_error"] < THRESHOLD] for records in runs.values()]
        found = [_difference(records[0]) for records in below if records]
        if len(found) < len(runs):
            raise Unfit(
                f"the training error of {len(runs) - len(found)} of {len(runs)} runs of {method} never is below "
                f"{THRESHOLD:g}"
            )
        mean = estimate(found)
        assert mean is not None
        return below_zero(mean, LEAST_SEEDS)

    return judge


def over_time(method: str) -> Judge:
    """Reports at which epochs the claim holds, fails and is undecided; measured is the share at which it holds."""

    @judged
    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        runs = _runs(outcomes, method)
        by_epoch = [{round(record["epoch"], 6): _difference(record) for record in records} for records in runs.values()]
        shared = [epoch for epoch in by_epoch[0] if all(epoch in each for each in by_epoch)]
        words: dict[str, list[str]] = {"holds": [], "fails": [], "undecided": []}
        for epoch in shared:
            mean = estimate([each[epoch] for each in by_epoch])
            assert mean is not None
            verdict = below_zero(mean, LEAST_SEEDS).passed
            words["undecided" if verdict is None else "holds" if verdict else "fails"].append(f"{epoch:g}")
        told = "; ".join(f"{word} at epochs {', '.join(epochs)}" for word, epochs in words.items() if epochs)
        return Verdict(len(words["holds"]) / len(shared) if shared else None, None, told)

    return judge


def _runs(outcomes: Mapping[str, Outcome], method: str) -> dict[int, list[Record]]:
    """Seed → the records of its selected run that have Gini coefficients."""
    labels = selected(outcomes).get(method, {})
    if not labels:
        raise Unfit(f"no run of {method} was trained to its end")
    return {
        seed: [record for record in outcomes[label].records if record.get("gini_phantom") is not None]
        for seed, label in labels.items()
    }


def _difference(record: Record) -> float:
    return float(record["gini_phantom"] - record["gini_real"])


_WHEN = (
    f"{THRESHOLD:g} is ours, fixed before any of these coefficients was seen: by then the network has its features, "
    "and the losses have not yet vanished"
)
_WORDS_ONLY = "its text; no number known"
_LOWER = Reference("SAM's is lower", _WORDS_ONLY)
_MORE_EVEN = Reference("more even", "its Lorenz curves, of checkpoints of SGD and LSAM; no number")

CLAIMS = (
    Claim(
        "hard-feature",
        f"SAM's probing error of the hard feature is below SGD's: mean difference, paired by seed, {_SELECTED}",
        "the experiments on feature quality", "interval < 0",
        smaller(("sam", "hard_error"), (SGD, "hard_error")), whole_grid=True, regime=trained,
        reference=_LOWER, figure="probing",
    ),
    Claim(
        "easy-feature",
        f"SAM's probing error of the easy feature is less than {MARGIN:g} above SGD's: it doesn't pay there for what "
        "it gains on the hard one (margin ours)",
        "the experiments on feature quality", f"interval < {MARGIN:g}", no_price, whole_grid=True,
        regime=trained, reference=Reference("no price", _WORDS_ONLY), why=OURS_BEFORE, figure="probing",
    ),
    Claim(
        "phantom-more-even",
        "The phantom importance weights are more evenly spread than the real ones: difference of their Gini "
        f"coefficients on SGD's networks, at the first check with a training error below {THRESHOLD:g} (check ours)",
        "the section on importance weights", "interval < 0", at_the_threshold(SGD), whole_grid=True,
        reference=_MORE_EVEN, why=_WHEN, figure="training",
    ),
    Claim(
        "phantom-more-even-sam",
        "The phantom importance weights are more evenly spread than the real ones on SAM's networks, too, at the same "
        "check",
        "the section on importance weights", "interval < 0",
        at_the_threshold("sam"), whole_grid=True, reference=_MORE_EVEN, why=_WHEN, figure="training",
    ),
    Claim(
        "phantom-over-training",
        "Where in training the phantom importance weights are more evenly spread on SGD's networks: the share of the "
        "checks at which they are",
        "the section on importance weights", None, over_time(SGD), whole_grid=True, reference=NOT_IN_PAPER,
        figure="training",
    ),
    Claim(
        "last-layer",
        "LSAM alone already balances: its probing error of the hard feature is below SGD's, paired by seed",
        "the section on the last layer", "interval < 0",
        smaller(("lsam", "hard_error"), (SGD, "hard_error")), whole_grid=True, regime=trained,
        reference=Reference("LSAM alone already balances", _WORDS_ONLY), figure="probing",
    ),
)  # fmt: skip

# Of a grid of ρ and η, whatever is selected.
GRID_CLAIMS = (
    Claim(
        "hard-feature-somewhere",
        "At a ρ and η of the grid SAM's probing error of the hard feature is below SGD's at the same η, paired by "
        "seed, corrected for the number of settings (ours)",
        "the experiments on feature quality", "corrected p <= 0.05, below", at_some_setting, whole_grid=True,
        regime=trained, grid="paper", reference=NOT_IN_PAPER, figure="differences",
        why="ours: the usual level, corrected by Holm for all settings",
    ),
    Claim(
        "hard-feature-trend",
        "The probing error of the hard feature falls with ρ: slope of its line, mean over η, a seed at a time (ours)",
        "the experiments on feature quality", "interval < 0", trend, whole_grid=True, regime=trained, grid="paper",
        reference=NOT_IN_PAPER, figure="differences",
    ),
)  # fmt: skip

_WORDS = {
    "sam": "SAM",
    "lsam": "LSAM, which perturbs the last layer alone,",
    "phantom-weights": "The phantom importance weights alone",
    "phantom-scaling": "The scaling by the phantom last layer alone",
}


def larger_ratio(method: str) -> Judge:
    """Judges SGD's v_hard/v_easy minus that of ``method`` at ρ = `TOY_RHO`, at the end, paired by seed."""
    arm = toy_arm(method, TOY_RHO)
    return judged(lambda outcomes: below_zero(claims.difference(outcomes, SGD, arm, last("ratio")), LEAST_SEEDS))


# Of the toy with a network for each feature.
RATIO_CLAIMS = tuple(
    Claim(
        f"ratio-{method}",
        f"{_WORDS[method]} gives the hard feature more of the last layer: v_hard/v_easy of SGD minus that at ρ = "
        f"{TOY_RHO:g}, at the end, paired by seed",
        "the toy's figures of v_hard/v_easy", "interval < 0", larger_ratio(method),
        regime=reached(SGD, last("train_error"), TRAINED, "SGD's training error"),
        reference=Reference("SAM raises v_hard/v_easy", "its figures of the toy; no number"), figure="against-rho",
    )
    for method in METHODS
)  # fmt: skip
