"""Which runs are selected, the table, the verdicts on them, on a whole grid and over training, the figures."""

import math
from types import SimpleNamespace

import pytest
from scipy.stats import ttest_rel

from lowland.papers import find
from lowland.papers.springer2024.claims import (
    CLAIMS,
    MARGIN,
    at_some_setting,
    at_the_threshold,
    no_price,
    over_time,
    selected,
    table,
    trend,
)
from lowland.papers.springer2024.figures import _lorenz, feature_figures
from lowland.papers.springer2024.methods import METHODS, SGD
from lowland.report.coincidence import difference
from lowland.training import Outcome
from lowland.training.statistics import estimate

JUDGE = {claim.id: claim.judge for claim in CLAIMS}


def arm(method, seed, rho=0.1, lr=0.1, error=0.1, loss=0.5, diverged_at=None, more=None, **last):
    settings = SimpleNamespace(method="sam" if method == SGD else method, rho=0.0 if method == SGD else rho,
                               lr=lr, seed=seed, **(more or {}))  # fmt: skip
    record = {"epoch": 1.0, "step": 9, "validation_error": error, "validation_loss": loss, "test_error": 0.2, **last}
    return Outcome(settings, [{"epoch": 0.0, "step": 0}, record], diverged_at)


def test_the_lowest_validation_error_is_selected_for_each_method_and_seed():
    arms = {
        "a": arm("sam", 0, rho=0.1, error=0.2),
        "b": arm("sam", 0, rho=0.2, error=0.1, loss=0.6),
        "c": arm("sam", 0, rho=0.3, error=0.1, loss=0.4, hard_error=0.3),  # the loss decides
        "d": arm("sam", 0, rho=0.4, error=0.1, loss=0.4),  # the earlier does
        "e": arm("sam", 0, rho=0.5, error=0.0, diverged_at=3),
        "f": arm("sam", 0, rho=0.6, error=None),
        "g": arm("sam", 0, rho=0.7, error=math.nan),
        "h": arm("sam", 1, error=0.9),
        "i": arm("lsam", 0, error=0.3),
        "j": arm("sgd", 1, error=0.3, hard_error=math.nan),
    }
    assert selected(arms) == {"sgd": {1: "j"}, "sam": {0: "c", 1: "h"}, "lsam": {0: "i"}}
    rows = {row.name: row.entry() for row in table(arms)}
    assert rows["sam"]["runs"] == {0: "c", 1: "h"}
    assert rows["sam"]["measures"]["test error"]["n"] == 2
    assert rows["sam"]["measures"]["hard feature"]["by_seed"] == {0: 0.3}
    assert "hard feature" not in rows["sgd"]["measures"]


def several(sam, sgd, column="hard_error", **more):
    found = {f"sam-{seed}": arm("sam", seed, more=more, **{column: value}) for seed, value in enumerate(sam)}
    return found | {f"sgd-{seed}": arm("sgd", seed, more=more, **{column: value}) for seed, value in enumerate(sgd)}


def test_a_difference_counts_where_its_interval_excludes_zero():
    sgd, below = [0.40, 0.41, 0.39, 0.42, 0.40], [0.35, 0.38, 0.33, 0.39, 0.35]
    verdict = JUDGE["hard-feature"](several(below, sgd))
    assert verdict.passed is True
    assert verdict.measured == pytest.approx(-0.044)
    low, high = ttest_rel(below, sgd).confidence_interval(0.95)
    assert f"{low:.2g} to {high:.2g}" in verdict.reason
    assert JUDGE["hard-feature"](several(sgd, below)).passed is False
    scattered = JUDGE["hard-feature"](several([0.3, 0.5, 0.39, 0.41, 0.39], sgd))
    assert scattered.passed is None
    assert "can't tell" in scattered.reason
    few = JUDGE["hard-feature"](several(below[:4], sgd[:4]))
    assert few.passed is None
    assert "5 seeds" in few.reason


def test_the_easy_feature_is_paid_for_above_the_margin():
    sgd = [0.010, 0.012, 0.011, 0.010, 0.013]

    def verdict(*changes):
        return no_price(several([a + b for a, b in zip(sgd, changes, strict=False)], sgd, "easy_error")).passed

    assert verdict(0.001, -0.001, 0.002, -0.002, 0.0) is True
    assert verdict(0.002, 0.003, 0.002, 0.003, 0.002) is True  # surely above zero, and surely below the margin
    assert verdict(*[MARGIN + change for change in (0.001, 0.002, 0.001, 0.003, 0.002)]) is False
    assert verdict(*[MARGIN + change for change in (0.01, -0.01, 0.02, -0.02, 0.0)]) is None
    assert verdict(*[MARGIN + 0.01] * 5) is None  # which has no scatter
    assert verdict(0.03, -0.03, 0.02, -0.02, 0.0) is None
    assert no_price(several([0.1] * 2, [0.1] * 2, "easy_error")).passed is None


def test_without_an_error_of_either_nothing_is_paid_and_the_verdict_says_so():
    verdict = no_price(several([0.0] * 5, [0.0] * 5, "easy_error"))
    assert verdict.passed is True
    assert verdict.reason == "vacuously: both errors are 0 with each of 5 seeds"
    assert no_price(several([0.0] * 4, [0.0] * 4, "easy_error")).passed is None
    assert no_price(several([0.0] * 4 + [0.1], [0.0] * 5, "easy_error")).passed is None


def test_nothing_is_said_of_runs_that_differ_in_more_or_are_not_there():
    arms = several([0.3] * 5, [0.4] * 5, correlation=1.0)
    arms["other"] = arm("sam", 9, more={"correlation": 0.5}, hard_error=0.3)
    assert "correlation" in JUDGE["hard-feature"](arms).reason
    assert table(arms) == []
    assert "lsam" in JUDGE["last-layer"](several([0.3] * 5, [0.4] * 5)).reason
    apart = {"a": arm("sam", 0, hard_error=0.3), "b": arm("sgd", 1, hard_error=0.3)}
    assert "no seed" in JUDGE["hard-feature"](apart).reason


def test_figures():
    even = [k / 100 for k in range(101)]
    arms = {
        f"{method}-{seed}": arm(
            method, seed, easy_error=0.1, hard_error=0.2 + 0.1 * seed, lorenz_real=even, lorenz_phantom=even
        )
        for method in (SGD, *METHODS)
        for seed in range(2)
    }
    probing, lorenz, quality, _ = feature_figures([SGD, *METHODS])
    easy, hard, _, hard_difference = probing.panels(arms)
    assert [line.label for line in hard.lines] == list(METHODS)
    sam = hard.lines[0]
    expected = estimate([0.2, 0.3])
    assert list(sam.x) == [0.0, 0.1]
    assert list(sam.y) == pytest.approx([0.25, 0.25])
    assert (sam.low[1], sam.high[1]) == pytest.approx(expected.interval)
    assert list(hard_difference.lines[0].x) == [0.1]
    assert list(hard_difference.lines[0].y) == pytest.approx([0.0])
    assert list(easy.lines[1].y) == pytest.approx([0.1, 0.1])
    assert [panel.title for panel in lorenz.panels(arms)] == [SGD, "lsam", "sam"]
    by_column = dict(zip(("easy", "hard", "worst"), quality.panels(arms), strict=True))
    for panel in (easy, hard, by_column["easy"], by_column["hard"]):
        assert [(level.value, level.label) for level in panel.levels] == [(0.5, "chance")]
    assert by_column["worst"].levels == ()
    assert not lorenz.panels({"a": arm("sam", 0)})


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
    one_above = at_some_setting(grid(lambda seed, rho, lr: 0.6 - error(seed, rho, lr)))
    assert "below at 0, above at 1" in one_above.reason
    assert one_above.passed is None  # at the other setting it may be below
    assert at_some_setting(grid(lambda seed, rho, lr: 0.3 + 0.001 * seed * (1 + rho) + rho)).passed is False
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


@pytest.mark.parametrize(("name", "level"), [("cifar-mnist", 0.5), ("fmnist-mnist", 0.8), ("waterbirds", 0.5)])
def test_the_chance_of_a_probe_is_that_of_its_classes(name, level):
    experiment = find(f"springer2024/{name}")
    assert [curve.level.value for curve in experiment.outcomes[:2]] == pytest.approx([level] * 2)
    probing = experiment.figures[0].panels({"sgd": run(0, 0.0, [end(0.3)])})
    assert [panel.levels[0].value for panel in probing[:2]] == pytest.approx([level] * 2)


def test_the_difference_of_the_lorenz_curves_is_drawn_where_they_coincide():
    real, phantom = [0.0, 0.1, 0.2, 0.5, 1.0], [0.0, 0.1, 0.21, 0.51, 1.0]
    arms = {f"sgd-{k}": run(k, 0.0, [{**end(0.3), "lorenz_real": real, "lorenz_phantom": phantom}]) for k in range(2)}
    (curves,) = _lorenz(arms)
    assert [line.label for line in curves.lines] == ["real parameters", "phantom parameters", "even"]
    gap = difference(curves, (0, 1))
    assert [line.label for line in gap.lines] == ["phantom parameters"]
    assert list(gap.lines[0].y) == pytest.approx([0, 0, 0.01, 0.01, 0])
