"""Verdicts on differences paired by seed, against scipy's paired t-test, and on the whole grid of m."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from scipy.stats import t, ttest_rel

from lowland.papers.andriushchenko2022.claims import figure_1_claims
from lowland.papers.claims import below_zero, last, reached, smaller
from lowland.training import Claim, Outcome
from lowland.training.claims import NoArmError
from lowland.training.statistics import Estimate


def arms(errors, **more):
    """Arms NAME-k with the last test errors of ``errors``: name → by seed."""
    made = {}
    for name, values in errors.items():
        rho = 0.0 if name == "erm" else 0.1
        for k, value in enumerate(values):
            settings = SimpleNamespace(rho=rho, seed=k, **more)
            made[f"{name}-{k}"] = Outcome(settings, [{"step": 0, "test_error": 0.9}, {"step": 1, "test_error": value}])
    return made


judge = smaller("sam", "erm", last("test_error"))


def test_the_interval_is_that_of_a_paired_t_test():
    sam, erm = [0.30, 0.31, 0.28, 0.33], [0.34, 0.36, 0.30, 0.35]
    verdict = judge(arms({"sam": sam, "erm": erm}))
    low, high = ttest_rel(sam, erm).confidence_interval(0.95)
    assert verdict.measured == pytest.approx(sum(sam) / 4 - sum(erm) / 4)
    assert verdict.passed is True
    assert high < 0
    assert f"{low:.2g} to {high:.2g}" in verdict.reason


@pytest.mark.parametrize(
    ("sam", "erm", "passed", "reason"),
    [
        ([0.3, 0.4], [0.3, 0.3], None, "2 seeds can't tell"),
        ([0.3, 0.31, 0.32], [0.2, 0.21, 0.2201], False, "over 3 seeds: 95 % interval 0.1 to 0.1"),
        ([0.3, 0.31, 0.32], [0.2, 0.21, 0.22], None, "3 seeds that give the same say nothing of the scatter"),
        ([0.3, 0.2], [0.3, 0.3], None, "2 seeds can't tell"),
        ([0.3], [0.4], None, "one seed"),
        ([0.4], [0.3], None, "one seed"),
        ([0.3, 0.3], [0.3, 0.3], None, "2 seeds that give the same"),
    ],
)
def test_what_seeds_cannot_tell_is_null(sam, erm, passed, reason):
    verdict = judge(arms({"sam": sam, "erm": erm}))
    assert verdict.passed is passed
    assert reason in verdict.reason


def test_a_diverged_arm_and_one_that_is_no_sam_are_null():
    made = arms({"sam": [0.3], "erm": [0.4]})
    made["sam-0"] = Outcome(made["sam-0"].settings, made["sam-0"].records, diverged_at=7)
    assert judge(made).reason == "arm sam-0 diverged at step 7"
    made = arms({"sam": [0.3], "erm": [0.4]})
    made["sam-0"].settings.rho = 0.0
    assert judge(made).reason == "arm sam-0 has ρ = 0"


def grid(erm, small, large):
    runs = {}
    for m, rho, errors in ((128, 0.0, erm), (4, 0.1, small), (16, 0.1, small), (128, 0.1, large)):
        for seed, error in enumerate(errors):
            settings = SimpleNamespace(rho=rho, seed=seed, m=m)
            runs[f"m={m},rho={rho},seed={seed}"] = Outcome(settings, [{"step": 0, "test_error": error}])
    return runs


SMALL = next(claim.judge for claim in figure_1_claims(5.15, 4.3, "", "", desk_m=True) if claim.id == "small-m")


def test_small_groups_against_large_ones():
    verdict = SMALL(grid([0.4, 0.42, 0.41], [0.30, 0.31, 0.32], [0.39, 0.40, 0.42]))
    assert verdict.passed is True
    assert verdict.measured == pytest.approx(0.31 - 1.21 / 3)
    assert SMALL(grid([0.4, 0.4], [0.4, 0.4001], [0.3, 0.3])).passed is False


def test_a_seed_that_lacks_an_m_is_left_out():
    runs = grid([0.4, 0.42, 0.41, 0.40], [0.30, 0.31, 0.32, 0.1], [0.39, 0.40, 0.42, 0.41])
    runs["m=4,rho=0.1,seed=3"] = replace(runs["m=4,rho=0.1,seed=3"], diverged_at=0)
    verdict = SMALL(runs)
    assert verdict.measured == pytest.approx(0.31 - 1.21 / 3)
    assert verdict.reason.startswith("over 3 seeds")


def test_without_several_m_nothing_is_said():
    verdict = SMALL(arms({"sam": [0.3], "erm": [0.4]}, m=128))
    assert verdict.passed is None
    assert "--grid m" in verdict.reason


def test_what_else_varies_would_be_compared_too():
    runs = grid([0.4, 0.42], [0.30, 0.31], [0.39, 0.40])
    next(reversed(runs.values())).settings.rho = 0.2
    assert SMALL(runs).reason == "more than m varies: rho"
    next(reversed(runs.values())).settings.rho = 0.1
    for k, arm in enumerate(runs.values()):
        arm.settings.lr = 0.1 * k
    assert SMALL(runs).reason == "more than m varies: lr"


def test_between_the_sign_of_the_mean_decides_nothing():
    for mean in (-0.01, 0.0, 0.01):
        verdict = below_zero(Estimate(mean, 0.01, 5))
        assert (verdict.measured, verdict.passed) == (mean, None)
    half = float(t.ppf(0.975, 4)) * 0.01
    assert below_zero(Estimate(-half * 1.001, 0.01, 5)).passed is True
    assert below_zero(Estimate(-half * 0.999, 0.01, 5)).passed is None
    assert below_zero(Estimate(half * 0.999, 0.01, 5)).passed is None
    assert below_zero(Estimate(half * 1.001, 0.01, 5)).passed is False
    assert below_zero(Estimate(-1.0, 0.01, 4), least=5).passed is None


def test_a_regime_is_that_of_the_worst_seed():
    regime = reached("erm", last("test_error"), 0.02, "ERM's training error")
    assert regime(arms({"erm": [0.0, 0.02], "sam": [0.9, 0.9]})) == ""
    assert regime(arms({"erm": [0.0, 0.67]})) == (
        "ERM's training error is 0.67, and the claim is about networks that get to 0.02"
    )
    for asked in (regime, judge):
        with pytest.raises(NoArmError, match="erm"):
            asked(arms({"sam": [0.1]}))


def test_another_threshold_than_the_judge_goes_by_is_refused():
    assert Claim("one", "it is lower", "ours", "interval < 0", judge).threshold == "interval < 0"
    for other in ("interval > 0", "below zero", None):
        with pytest.raises(ValueError, match="the claim one: its judge goes by 'interval < 0', so say that and not"):
            Claim("one", "it is lower", "ours", other, judge)
