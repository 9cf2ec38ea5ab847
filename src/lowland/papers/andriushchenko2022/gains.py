"""Which share of SAM's gain over ERM something brings, decided by paired differences."""

from collections.abc import Callable, Mapping

from lowland.papers.claims import Measure, Unfit, below_zero, by_seed, difference, judged, shown
from lowland.training import Outcome, Verdict
from lowland.training.statistics import Estimate, estimate


def share_of_gain(
    kind: str, sam: str, erm: str, measure: Measure, share: float = 0.5
) -> Callable[[Mapping[str, Outcome]], Verdict]:
    """Judges whether ``kind`` brings more than ``share`` of the gain of the arm ``sam`` over ``erm``.

    By the mean over seeds of share · (erm − sam) − (erm − kind), whose interval lies below 0 if it does. Null where
    the gain can't be told from the scatter: then there is nothing to bring.
    """

    @judged
    def judge(outcomes: Mapping[str, Outcome]) -> Verdict:
        gain = difference(outcomes, erm, sam, measure)
        if not_told(gain):
            raise Unfit(f"there is no gain to share: SAM's is {gain.mean:.2g} ({shown(gain)})")
        errors, with_sam, other = (by_seed(outcomes, name, measure) for name in (erm, sam, kind))
        none = f"there are no runs of {kind}, {sam} and {erm} with the same seed"
        found, brought = short_of(errors, with_sam, other, gain, share, none)
        verdict = below_zero(found)
        return Verdict(verdict.measured, verdict.passed, f"it brings {brought:.2g} of SAM's gain; {verdict.reason}")

    return judge


def not_told(gain: Estimate) -> bool:
    """Whether a gain can't be told from the scatter between seeds."""
    return gain.interval is None or gain.interval[0] <= 0


def short_of(
    erm: Mapping[int, float],
    sam: Mapping[int, float],
    other: Mapping[int, float],
    gain: Estimate,
    share: float,
    none: str,
) -> tuple[Estimate, float]:
    """What ``other`` falls short of ``share`` of SAM's gain over ERM, and the part of the gain that it brings.

    Args:
        erm: seed → error.
        sam: likewise.
        other: likewise.
        gain: of SAM, over the seeds that it shares with ERM.
        share: of the gain.
        none: the reason where no seed has all three.

    Raises:
        Unfit: then.
    """
    seeds = [seed for seed in erm if seed in sam and seed in other]
    found = estimate([share * (erm[s] - sam[s]) - (erm[s] - other[s]) for s in seeds])
    if found is None:
        raise Unfit(none)
    return found, sum(erm[s] - other[s] for s in seeds) / len(seeds) / gain.mean
