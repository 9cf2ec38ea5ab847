"""Which share of SAM's gain over ERM something brings, decided by paired differences."""

from collections.abc import Callable, Mapping

from lowland.papers.paired import Measure, Unfit, below_zero, by_seed, difference, judged, shown
from lowland.training import Arm, Verdict
from lowland.training.statistics import estimate


def share_of_gain(
    kind: str, sam: str, erm: str, measure: Measure, share: float = 0.5
) -> Callable[[Mapping[str, Arm]], Verdict]:
    """Judges whether ``kind`` brings more than ``share`` of the gain of the arm ``sam`` over ``erm``.

    By the mean over seeds of share · (erm − sam) − (erm − kind), whose interval lies below 0 if it does. Null where
    the gain can't be told from the scatter: then there is nothing to bring.
    """

    @judged
    def judge(arms: Mapping[str, Arm]) -> Verdict:
        gain = difference(arms, erm, sam, measure)
        if gain.interval is None or gain.interval[0] <= 0:
            return Verdict(None, None, f"there is no gain to share: SAM's is {gain.mean:.2g} ({shown(gain)})")
        of = {name: by_seed(arms, name, measure) for name in (kind, sam, erm)}
        seeds = [seed for seed in of[erm] if seed in of[sam] and seed in of[kind]]
        found = estimate([share * (of[erm][s] - of[sam][s]) - (of[erm][s] - of[kind][s]) for s in seeds])
        if found is None:
            raise Unfit(f"there are no runs of {kind}, {sam} and {erm} with the same seed")
        brought = sum(of[erm][s] - of[kind][s] for s in seeds) / len(seeds) / gain.mean
        verdict = below_zero(found)
        return Verdict(verdict.measured, verdict.passed, f"it brings {brought:.2g} of SAM's gain; {verdict.reason}")

    return judge
