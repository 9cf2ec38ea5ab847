"""The paper's claims about networks trained on images, each on the last weights."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

from lowland.papers.andriushchenko2022.methods import at_best_rho, errors_at_best, method
from lowland.papers.claims import (
    Judge,
    Measure,
    Unfit,
    below_zero,
    between,
    by_seed,
    difference,
    judged,
    last,
    reached,
    shown,
    trained_to,
)
from lowland.training import Claim, Outcome, Reference, Verdict
from lowland.training.statistics import Estimate, estimate

TEST_ERROR = last("test_error")
SMALL, LARGE = 16, 128  # groups for the claim about m (ours): 128 is the whole batch
_NEITHER = "no seed has runs of both kinds"
_M_SHARPNESS = "what it says of m-sharpness; its figure not found"
GAIN = "A gain is by how much the test error is below ERM's, seed by seed."
MOST = "ours: most of the gain is more than half"
FITTED = 0.02  # training error; the paper's networks get to zero

FITS = reached("erm", last("train_error"), FITTED, "ERM's training error")


def fits(outcomes: Mapping[str, Outcome]) -> str:
    """A `Claim`'s ``regime`` over a grid: that the runs with ρ = 0 end at or below a training error of ``FITTED``."""
    ends = [
        outcome.records[-1]["train_error"]
        for outcome in outcomes.values()
        if method(outcome) == "erm" and outcome.records
    ]
    if not ends:
        return "there are no runs with ρ = 0 to tell whether networks fit their training images"
    return trained_to(FITTED, ends, "ERM's training error")


def share_of_gain(kind: str, sam: str, erm: str, measure: Measure) -> Judge:
    """Judges whether ``kind`` brings more than half of the gain of the arm ``sam`` over ``erm``.

    By the mean over seeds of (erm − sam)/2 − (erm − kind), whose interval lies below 0 if it does. Null where
    the gain can't be told from the scatter: then there is nothing to bring.
    """

    @judged
    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        gain = difference(outcomes, erm, sam, measure)
        if not_told(gain):
            raise Unfit(f"there is no gain to share: SAM's is {gain.mean:.2g} ({shown(gain)})")
        errors, with_sam, other = (by_seed(outcomes, name, measure) for name in (erm, sam, kind))
        none = f"there are no runs of {kind}, {sam} and {erm} with the same seed"
        found, brought = short_of(errors, with_sam, other, gain, none)
        verdict = below_zero(found)
        return replace(verdict, reason=f"it brings {brought:.2g} of SAM's gain; {verdict.reason}")

    return judge


def not_told(gain: Estimate) -> bool:
    """Whether a gain can't be told from the scatter between seeds."""
    return gain.interval is None or gain.interval[0] <= 0


def short_of(
    erm: Mapping[int, float], sam: Mapping[int, float], other: Mapping[int, float], gain: Estimate, none: str
) -> tuple[Estimate, float]:
    """What ``other`` falls short of half of SAM's gain over ERM, and the part of the gain that it brings.

    Args:
        erm: seed → error of ERM.
        sam: seed → error of SAM.
        other: seed → error of what is compared with the two.
        gain: of SAM, over the seeds that it shares with ERM.
        none: what the error says where no seed has all three.

    Raises:
        Unfit: if no seed has.
    """
    seeds = [seed for seed in erm if seed in sam and seed in other]
    found = estimate([0.5 * (erm[s] - sam[s]) - (erm[s] - other[s]) for s in seeds])
    if found is None:
        raise Unfit(none)
    return found, sum(erm[s] - other[s] for s in seeds) / len(seeds) / gain.mean


def figure_1_claims(erm: float, sam: float, n_sam: str, random: str, *, desk_m: bool) -> tuple[Claim, ...]:
    """What figure 1 says, with the paper's test errors in %: of ERM, of the others at their best ρ.

    ``desk_m``: whether there is a grid ``m-desk``, of networks with group norm that fit their images at desk scale.
    """
    where = "figure 1, read by eye"
    little = "ours: what brings less than half is little"
    at_best = f"each at the ρ of its lowest mean validation error. {GAIN}"
    return (
        Claim(
            "sam-beats-erm",
            "128-SAM's test error at its best ρ is below ERM's: mean difference, paired by seed; the best ρ is that of "
            "the lowest mean validation error",
            "figure 1", "interval < 0", _sam_beats_erm,
            whole_grid=True, reference=Reference(round((sam - erm) / 100, 6), where), regime=fits, grid="figure-1-desk",
            figure="figure-1",
        ),
        Claim(
            "n-sam-gains-little",
            f"n-SAM, one perturbation for the training set, gains less than half of what 128-SAM does, {at_best} "
            "Measured: n-SAM's gain minus half of 128-SAM's; mean over seeds (threshold ours)",
            "figure 1", "interval < 0", _gains_little("n-sam"),
            whole_grid=True, reference=Reference(n_sam, where), regime=fits, grid="figure-1-desk",
            why=little, figure="figure-1",
        ),
        Claim(
            "random-gains-little",
            f"Random perturbations of the weights gain less than half of what 128-SAM does, {at_best} "
            "Measured: their gain minus half of 128-SAM's; mean over seeds (threshold ours)",
            "figure 1", "interval < 0", _gains_little("random"),
            whole_grid=True, reference=Reference(random, where), regime=fits, grid="figure-1-desk",
            why=little, figure="figure-1",
        ),
        Claim(
            "small-m",
            f"Groups of m ≤ {SMALL} examples beat groups of m ≥ {LARGE}: mean difference of the test error, paired by "
            "seed, over the m of each kind (in this form ours)",
            _M_SHARPNESS, "interval < 0", _small_beats_large,
            whole_grid=True, regime=fits, reference=Reference("the smaller m, the lower the error", _M_SHARPNESS),
            grid="m-desk" if desk_m else "m", decided_by="desk" if desk_m else "paper", figure="against-m",
            why=f"{SMALL} and {LARGE} are ours: {LARGE} is the whole batch, {SMALL} an eighth of it",
        ),
    )  # fmt: skip


@judged
def _sam_beats_erm(outcomes: Mapping[str, Outcome]) -> Verdict:
    rho, found = errors_at_best(outcomes, "sam")
    verdict = below_zero(between(found, at_best_rho(outcomes, "erm"), _NEITHER))
    return replace(verdict, reason=f"ρ = {rho:g}; {verdict.reason}")


def _gains_little(kind: str) -> Judge:
    @judged
    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        erm = at_best_rho(outcomes, "erm")
        (rho, other), (best, sam) = errors_at_best(outcomes, kind), errors_at_best(outcomes, "sam")
        gain = between(erm, sam, _NEITHER)
        if not_told(gain):
            raise Unfit(f"128-SAM gains nothing that can be told from the scatter: {shown(gain)}")
        short, share = short_of(erm, sam, other, gain, f"no seed has runs of ERM, 128-SAM and {kind}")
        verdict = below_zero(Estimate(-short.mean, short.standard_error, short.n))
        text = f"{share:.2g} of 128-SAM's gain, at ρ = {rho:g} and {best:g}; {verdict.reason}"
        return replace(verdict, reason=text)

    return judge


@judged
def _small_beats_large(outcomes: Mapping[str, Outcome]) -> Verdict:
    found: dict[str, dict[int, dict[int, float]]] = {"small": {}, "large": {}}
    sams = [outcome for outcome in outcomes.values() if method(outcome) == "sam"]
    varied = {name for outcome in sams for name, value in vars(outcome.settings).items()
              if value != getattr(sams[0].settings, name)}  # fmt: skip
    if others := varied - {"m", "seed"}:
        raise Unfit(f"more than m varies: {', '.join(sorted(others))}")
    for outcome in sams:
        m = getattr(outcome.settings, "m", 0)
        kind = "small" if m <= SMALL else "large" if m >= LARGE else None
        if kind is not None and outcome.status == "done" and outcome.records:
            found[kind].setdefault(outcome.settings.seed, {})[m] = TEST_ERROR(outcome)
    if not all(found.values()):
        raise Unfit(f"it takes runs with m ≤ {SMALL} and with m ≥ {LARGE}: lowland sweep … --grid m")
    means = {kind: _means_over_all(errors) for kind, errors in found.items()}
    return below_zero(between(means["small"], means["large"], _NEITHER))


def _means_over_all(by_seed: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    """Seed → mean over m, of the seeds that have a value at every m that any has: others would be means of other m."""
    every = {m for errors in by_seed.values() for m in errors}
    return {seed: fmean(errors.values()) for seed, errors in by_seed.items() if set(errors) == every}
