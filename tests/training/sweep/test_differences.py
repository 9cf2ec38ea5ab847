"""SAM against ρ = 0 over a grid, by scipy's paired t-test and regression; Holm's correction on a known example."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import linregress, ttest_1samp, ttest_rel

from lowland.papers.claims import below_zero
from lowland.report.differences import difference_panels
from lowland.training import Curve, Selection
from lowland.training.statistics import estimate, holm, slope
from lowland.training.sweep.cells import cells_of
from lowland.training.sweep.differences import differences, summarize_differences, trends
from lowland.wording import trend_of
from tests.fakes import TOY

from .grids import grid

NOISE = np.random.default_rng(0).normal(size=(2, 4, 5))
LRS, RHOS, SEEDS = [0.1, 0.2], [0.0, 0.1, 0.3, 1.0], [0, 1, 2, 3, 4]
VARIED = ("lr", "rho", "seed")


def error(lr, rho, seed):
    """SAM helps at η = 0.1, more so with ρ; at 0.2 there is scatter alone."""
    gain = 0.1 * (1 + math.log10(rho) / 4) if rho and lr == 0.1 else 0.0
    return {"test_error": 0.5 - gain + 0.01 * float(NOISE[LRS.index(lr), RHOS.index(rho), seed])}


def made(value=error, **axes):
    return grid(value, **{"lr": LRS, "rho": RHOS, "seed": SEEDS, **axes})


def test_holm_on_a_known_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_is_students():
    values = [0.1, 0.3, -0.05, 0.2]
    assert estimate(values).p == pytest.approx(ttest_1samp(values, 0).pvalue, rel=1e-12)
    assert estimate([0.1]).p is None
    assert estimate([0.5, 0.5]).p is None


def test_slope_is_that_of_least_squares():
    x, y = [0.0, 1.0, 2.5, 4.0], [1.0, 0.5, 2.0, 7.0]
    assert slope(dict(zip(x, y, strict=True))) == pytest.approx(linregress(x, y).slope)


def test_each_point_is_a_paired_t_test_against_rho_0_at_the_same_lr():
    found = differences(cells_of(made(), VARIED), "test_error")
    assert [each.settings for each in found] == [{"lr": lr, "rho": rho} for lr in LRS for rho in RHOS[1:]]
    for each in found:
        lr, rho = each.settings["lr"], each.settings["rho"]
        sam, erm = ([error(lr, r, seed)["test_error"] for seed in SEEDS] for r in (rho, 0.0))
        assert each.difference.mean == pytest.approx(np.mean(sam) - np.mean(erm))
        assert each.p == pytest.approx(ttest_rel(sam, erm).pvalue)
    assert [each.corrected for each in found] == pytest.approx(holm([each.p for each in found]))
    assert [each.verdict for each in found] == ["below"] * 3 + ["undecided"] * 3
    above = differences(cells_of(made(lambda **at: {"test_error": -error(**at)["test_error"]}), VARIED), "test_error")
    assert [each.verdict for each in above] == ["above"] * 3 + ["undecided"] * 3


def test_the_trend_is_a_line_on_log_rho_for_each_seed():
    at_1, at_2, over = trends(cells_of(made(), VARIED), "test_error")
    slopes = np.array([
        [linregress(np.log10(RHOS[1:]), [error(lr, rho, seed)["test_error"] for rho in RHOS[1:]]).slope
         for seed in SEEDS]
        for lr in LRS
    ])  # fmt: skip
    assert [at_1.settings, at_2.settings, over.settings] == [{"lr": 0.1}, {"lr": 0.2}, None]
    assert [each.slope.mean for each in (at_1, at_2)] == pytest.approx(list(slopes.mean(1)))
    assert over.slope.mean == pytest.approx(slopes.mean())
    assert over.slope.p == pytest.approx(ttest_1samp(slopes.mean(0), 0).pvalue)
    assert at_1.slope.interval[1] < 0 < at_2.slope.interval[1]


def test_a_collapse_at_the_largest_rho_is_told_from_the_trend():
    def collapsing(lr, rho, seed):
        return {"test_error": 0.9 if rho == 3.0 else 0.2 - 0.01 * math.log10(rho or 1) + 0.001 * seed * rho}

    over = trends(cells_of(made(collapsing, rho=[0.0, 0.1, 0.3, 1.0, 3.0]), VARIED), "test_error")[-1]
    rest = trends(cells_of(made(collapsing, rho=[0.0, 0.1, 0.3, 1.0]), VARIED), "test_error")[-1]
    assert over.slope.mean > 0 > over.without.mean
    assert (over.largest, over.without) == (3.0, rest.slope)
    assert rest.without is None  # two are left
    said = trend_of("test error", over.entry())
    assert said.startswith("trend of test error with ρ, over all: +")
    assert f"; without the largest ρ, 3: {over.without.mean:+.2g}, 95 % interval" in said
    assert "without" not in trend_of("test error", rest.entry())


def test_two_radii_are_no_trend_and_one_seed_no_p():
    arms = made(rho=[0.0, 0.1, 0.3], seed=[0])
    assert trends(cells_of(arms, VARIED), "test_error") == []
    found = differences(cells_of(arms, VARIED), "test_error")
    assert {(each.p, each.corrected, each.verdict) for each in found} == {(None, None, "undecided")}


def test_what_the_runs_without_sam_do_not_vary_is_compared_with_the_same_one():
    """ERM once, SAM at several m: each m against the one ERM."""
    erm = {f"erm-{s}": arm for s, arm in enumerate(made(lr=[0.1], rho=[0.0]).values())}
    sam = {f"sam-{k}": arm for k, arm in enumerate(made(rho=[0.1]).values())}
    found = differences(cells_of({**erm, **sam}, VARIED), "test_error")
    assert [each.settings["lr"] for each in found] == LRS
    first = np.mean([error(0.1, 0.0, seed)["test_error"] for seed in SEEDS])
    assert found[1].difference.mean == pytest.approx(
        np.mean([error(0.2, 0.1, seed)["test_error"] for seed in SEEDS]) - first
    )


def test_a_diverged_run_leaves_its_seed_out_and_is_counted():
    def diverging(lr, rho, seed):
        gone = rho == 1.0 or (lr, rho, seed) == (0.1, 0.1, 2)
        return {**error(lr, rho, seed), **({"diverged_at": 3} if gone else {})}

    found = differences(cells_of(made(diverging), VARIED), "test_error")
    assert [(each.settings["rho"], each.difference and each.difference.n, each.diverged) for each in found] == [
        (0.1, 4, 1), (0.3, 5, 0), (1.0, None, 5), (0.1, 5, 0), (0.3, 5, 0), (1.0, None, 5)
    ]  # fmt: skip
    assert [each.verdict for each in found if each.difference is None] == ["diverged"] * 2
    assert found[2].entry()["difference"] is None


def test_a_verdict_is_that_of_the_interval_as_a_claims_is_and_stands_if_the_corrected_p_does():
    """A point whose interval lies whole below 0, though not when corrected for looking at six."""
    found = differences(cells_of(made(weak), VARIED), "test_error")
    weak_one, *others = found
    assert weak_one.difference.interval[1] < 0
    assert weak_one.p < 0.05 < weak_one.corrected
    assert (weak_one.verdict, weak_one.stands) == ("below", False)
    assert below_zero(weak_one.difference).passed is True
    assert {each.verdict for each in others} == {"undecided"}


def weak(lr, rho, seed):
    """At η = 0.1, ρ = 0.1 a difference at the edge of what five seeds can tell, scatter around 0 elsewhere."""
    if rho == 0:
        return {"test_error": 0.5}
    scatter = (-0.02, -0.01, 0.0, 0.01, 0.02)[seed]
    return {"test_error": 0.5 + scatter - (0.022 if (lr, rho) == (0.1, 0.1) else 0.0)}


def test_seeds_without_scatter_decide_nothing():
    (found, *_) = differences(cells_of(made(lambda lr, rho, seed: {"test_error": 0.5 - rho}), VARIED), "test_error")
    assert (found.p, found.corrected, found.verdict) == (None, None, "undecided")
    assert found.entry()["difference"]["interval_95"] is None
    assert found.entry()["reason"] == "5 seeds that give the same say nothing of the scatter between seeds"


def test_the_summary_has_every_outcome_that_runs_have():
    experiment = replace(
        TOY, outcomes=(Curve("test_error", "test error"), Curve("nothing", "nothing")),
        selection=Selection("loss", "validation", test="test_error"),
    )  # fmt: skip
    found = summarize_differences(cells_of(made(), VARIED), experiment)
    assert list(found["metrics"]) == ["test_error"]
    entry = found["metrics"]["test_error"]
    assert len(entry["points"]) == 6
    assert len(entry["trends"]) == 3
    assert set(entry["points"][0]) == {
        "settings",
        "difference",
        "p",
        "p_holm",
        "diverged",
        "verdict",
        "stands",
        "reason",
    }


def test_panels_have_a_band_of_the_interval():
    (panel,) = difference_panels(cells_of(made(), VARIED), [Curve("test_error", "test error")])
    assert [line.label for line in panel.lines] == ["η = 0.1", "η = 0.2"]
    points = differences(cells_of(made(), VARIED), "test_error")
    assert list(panel.lines[0].x) == RHOS[1:]
    assert list(panel.lines[0].low) == [each.difference.interval[0] for each in points[:3]]
    assert list(panel.lines[0].high) == [each.difference.interval[1] for each in points[:3]]
    assert panel.levels[0].value == 0
    assert difference_panels(cells_of(made(rho=[0.0, 0.1]), VARIED), [Curve("test_error", "test error")]) == []
