"""Verdicts on a whole grid, and over training."""

import math
from types import SimpleNamespace

import pytest

from lowland.papers.springer2024.figures import _lorenz
from lowland.papers.springer2024.over_grid import at_some_setting, trend
from lowland.papers.springer2024.over_training import at_the_threshold, over_time
from lowland.training import Outcome


def run(seed, rho, records, lr=0.1):
    settings = SimpleNamespace(lr=lr, rho=rho, method="sam", seed=seed)
    return Outcome(settings, records)


def end(hard):
    return {"hard_error": hard, "easy_error": 0.0, "validation_error": 0.0, "validation_loss": 0.0}


def grid(error, seeds=5, rhos=(0.0, 0.1, 0.2), lrs=(0.1,)):
    return {
        f"{lr},{rho},{seed}": run(seed, rho, [end(error(seed, rho, lr))], lr)
        for seed in range(seeds)
        for rho in rhos
        for lr in lrs
    }


def test_some_setting_is_below():
    def error(seed, rho, lr):
        return 0.3 + 0.001 * (seed % 2) + {0.0: 0, 0.1: -0.05 + 0.001 * seed, 0.2: 0.01 * math.sin(seed)}[rho]

    verdict = at_some_setting(grid(error))
    assert verdict.passed is True
    assert "2 settings: below at 1, above at 0" in verdict.reason
    assert at_some_setting(grid(lambda seed, rho, lr: 0.6 - error(seed, rho, lr))).passed is False
    assert at_some_setting(grid(lambda seed, rho, lr: 0.3 + (seed - 2) * 0.01 * (rho > 0))).passed is None
    few = at_some_setting(grid(error, seeds=3))
    assert few.passed is None
    assert "5 seeds" in few.reason


def test_the_trend_over_rho():
    rhos = (0.0, 0.01, 0.1, 1.0)

    def falling(seed, rho, lr):
        return 0.3 - (0.1 + 0.01 * seed) * (math.log10(rho) if rho else 0)

    verdict = trend(grid(falling, rhos=rhos, lrs=(0.1, 0.5)))
    assert verdict.passed is True
    assert verdict.measured == pytest.approx(-0.12)
    assert trend(grid(lambda *which: 0.6 - falling(*which), rhos=rhos)).passed is False
    assert "three values" in trend(grid(lambda *_: 0.3)).reason


def test_the_trend_is_of_seeds_that_have_every_run():
    arms = grid(lambda seed, rho, lr: 0.3 - lr * rho, rhos=(0.0, 0.01, 0.1, 1.0), lrs=(0.1, 0.5))
    del arms["0.5,0.1,0"]
    verdict = trend(arms)
    assert verdict.passed is None
    assert "these are 4" in verdict.reason
    for seed in range(1, 5):  # η = 0.5 alone, or 0.1 alone, is not the mean over η
        del arms[f"0.1,0.1,{seed}"]
    verdict = trend(arms)
    assert (verdict.measured, verdict.passed) == (None, None)
    assert "a seed that has been trained at all of them" in verdict.reason


def over_epochs(seeds=5, errors=(0.4, 0.005, 0.0)):
    """Phantom weights are more even at epoch 1, by 0.1, and less at epochs 0 and 2."""
    return {
        f"sgd-{seed}": run(
            seed, 0.0,
            [
                {**end(0.3), "epoch": k, "train_error": error, "gini_real": 0.5, "gini_phantom": 0.5 + gap + seed / 1e3}
                for k, (error, gap) in enumerate(zip(errors, (0.1, -0.1, 0.1), strict=True))
            ],
        )
        for seed in range(seeds)
    }  # fmt: skip


def test_gini_is_judged_at_the_first_check_below_one_percent():
    verdict = at_the_threshold("sgd")(over_epochs())
    assert verdict.passed is True
    assert verdict.measured == pytest.approx(-0.098)
    later = at_the_threshold("sgd")(over_epochs(errors=(0.4, 0.02, 0.0)))
    assert later.passed is False
    never = at_the_threshold("sgd")(over_epochs(errors=(0.4, 0.2, 0.1)))
    assert never.passed is None
    assert "5 of 5" in never.reason


def test_where_in_training_it_holds():
    verdict = over_time("sgd")(over_epochs())
    assert verdict.measured == pytest.approx(1 / 3)
    assert verdict.reason == "holds at epochs 1; fails at epochs 0, 2"


def test_the_difference_of_the_lorenz_curves_is_drawn_beside_them():
    real, phantom = [0.0, 0.2, 1.0], [0.0, 0.3, 1.0]
    arms = {f"sgd-{k}": run(k, 0.0, [{**end(0.3), "lorenz_real": real, "lorenz_phantom": phantom}]) for k in range(2)}
    curves, gap = _lorenz(arms)
    assert [line.label for line in curves.lines] == ["real parameters", "phantom parameters", "even"]
    assert gap.title == "sgd: difference"
    assert list(gap.lines[-1].y) == pytest.approx([0, 0.1, 0])
