"""The paper's claims about networks trained on images, each on the last weights."""

from collections.abc import Mapping

from lowland.papers.paired import Unfit, below_zero, judged, last, shown, smaller
from lowland.training import Arm, Claim, Verdict
from lowland.training.statistics import paired_difference

TEST_ERROR = last("test_error")
SMALL, LARGE = 16, 128  # the paper: with group norm, m below 16 is best; 128 is the whole batch

SAM_BEATS_ERM = Claim(
    "sam-beats-erm",
    "SAM's test error is below ERM's: mean difference, paired by seed (false if it is not below 0, true if its 95 % "
    "t-interval lies below 0)",
    "figure 1 and the experiments", "interval < 0", smaller("sam", "erm", TEST_ERROR), over_seeds=True,
)  # fmt: skip


def m_claims() -> tuple[Claim, ...]:
    """What is said about m; over a grid of it."""
    return (
        Claim(
            "small-m",
            f"Groups of m ≤ {SMALL} examples beat groups of m ≥ {LARGE}: mean difference of the test error, paired by "
            "seed, over the m of each kind",
            "figure 1", "interval < 0", _small_beats_large, whole_grid=True,
        ),
        Claim(
            "large-m-gains-little",
            f"One perturbation for many examples (m ≥ {LARGE}) gains less than half of what m ≤ {SMALL} gains over "
            "ERM: ratio of the mean gains",
            "figure 1", "< 0.5", _large_gains_little, whole_grid=True,
        ),
    )  # fmt: skip


def _errors(arms: Mapping[str, Arm]) -> dict[str, dict[int, float]]:
    """Seed → test error, the mean over runs, for ERM, small and large m; raises Unfit unless there is each.

    And unless nothing else varies but the seed, and ρ between 0 and one radius.
    """
    found: dict[str, dict[int, list[float]]] = {"erm": {}, "small": {}, "large": {}}
    varied = {name for arm in arms.values() for name, value in vars(arm.settings).items()
              if value != getattr(next(iter(arms.values())).settings, name)}  # fmt: skip
    if others := varied - {"m", "rho", "seed"}:
        raise Unfit(f"more than m varies: {', '.join(sorted(others))}")
    if len({arm.settings.rho for arm in arms.values()} - {0.0}) > 1:
        raise Unfit("there are several radii ρ: a grid of m has one")
    for arm in arms.values():
        settings = arm.settings
        m = getattr(settings, "m", 0)
        kind = "erm" if settings.rho == 0 else "small" if m <= SMALL else "large" if m >= LARGE else None
        if kind is not None and arm.status == "done" and arm.records:
            found[kind].setdefault(settings.seed, []).append(TEST_ERROR(arm))
    missing = [kind for kind, errors in found.items() if not errors]
    if missing:
        raise Unfit(f"it takes runs with ρ = 0, with m ≤ {SMALL} and with m ≥ {LARGE}: lowland sweep … --grid m")
    return {
        kind: {seed: sum(values) / len(values) for seed, values in errors.items()} for kind, errors in found.items()
    }


@judged
def _small_beats_large(arms: Mapping[str, Arm]) -> Verdict:
    errors = _errors(arms)
    found = paired_difference(errors["small"], errors["large"])
    return below_zero(found) if found else Verdict(None, None, "no seed has runs of both kinds")


@judged
def _large_gains_little(arms: Mapping[str, Arm]) -> Verdict:
    errors = _errors(arms)
    small, large = (paired_difference(errors["erm"], errors[kind]) for kind in ("small", "large"))
    if small is None or large is None:
        return Verdict(None, None, "no seed has runs of both kinds")
    if small.interval is None or small.interval[0] <= 0:
        return Verdict(None, None, f"small m gains nothing that can be told from the scatter: {shown(small)}")
    ratio = large.mean / small.mean
    return Verdict(ratio, ratio < 0.5)
