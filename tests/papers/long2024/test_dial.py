"""The dial's claims on made-up records whose verdict is known."""

import pytest

from lowland.papers import find
from lowland.training import Outcome

EDGE = 2 / 0.75  # η is 0.75
TARGET = 0.1 * EDGE  # of the arm dial-0.1


@pytest.fixture(scope="module")
def arms():
    return find("long2024/dial-mnist").configure("paper", {"steps": "60", "turn": "20", "check_every": "1"})


def outcome(settings, norm, diverged_at=None):
    records = [{"step": t, "hessian_norm": norm(t)} for t in range(61) if diverged_at is None or t < diverged_at]
    return Outcome(settings, records, diverged_at)


def decide(arms, norm, descent=0.99 * EDGE, diverged_at=None):
    outcomes = {name: outcome(settings, lambda t: descent) for name, settings in arms.items()}
    outcomes["dial-0.1"] = outcome(arms["dial-0.1"], norm, diverged_at)
    claim = next(claim for claim in find("long2024/dial-mnist").claims if claim.id == "holds-0.1")
    return claim.decide(outcomes)


def test_the_norm_asked_for_comes_down_from_the_edge(arms):
    settings = arms["dial-0.1"]
    assert settings.asked(0) == pytest.approx(EDGE)
    assert settings.asked(10) == pytest.approx((EDGE * TARGET) ** 0.5)
    assert settings.asked(20) == settings.asked(60) == settings.target == pytest.approx(TARGET)
    assert settings.rho == pytest.approx((EDGE - TARGET) / TARGET**2)
    assert arms["gd"].rho == 0


@pytest.mark.parametrize(("ratio", "passed"), [(1.09, True), (0.91, True), (1.11, False), (0.89, False)])
def test_held_is_the_median_of_the_last_third(arms, ratio, passed):
    norm = lambda t: TARGET if t < 40 else 9.0 if t == 50 else ratio * TARGET  # noqa: E731 - an outlier doesn't count
    verdict = decide(arms, norm)
    assert verdict.passed is passed
    assert verdict.measured == pytest.approx(abs(ratio - 1))


def test_a_run_that_diverges_has_not_held_it(arms):
    verdict = decide(arms, lambda t: TARGET, diverged_at=5)
    assert verdict.passed is False
    assert verdict.reason == "diverged at step 5"


def test_where_training_does_not_get_to_it_nothing_is_decided(arms):
    late = decide(arms, lambda t: TARGET if t > 40 else 3 * TARGET)
    assert late.passed is None
    assert "doesn't come within 10%" in late.reason
    below = decide(arms, lambda t: TARGET, descent=0.9 * TARGET)
    assert below.passed is None
    assert below.reason == "gradient descent itself stays at 0.24, below the target 0.267"


def test_with_minibatches_it_is_only_reported(arms):
    outcomes = {name: outcome(settings, lambda t: EDGE) for name, settings in arms.items()}
    outcomes["dial-0.1"] = outcome(arms["dial-0.1"], lambda t: TARGET)
    claim = next(claim for claim in find("long2024/dial-resnet").claims if claim.id == "holds-0.1")
    verdict = claim.decide(outcomes)
    assert verdict.passed is None
    assert verdict.measured == pytest.approx(0)
