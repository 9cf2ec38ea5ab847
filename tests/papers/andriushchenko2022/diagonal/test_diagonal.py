"""The batched program against textbook loops over one network, the authors' published numbers, and the claims."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.errors import SettingError
from lowland.papers import find
from lowland.papers.andriushchenko2022.diagonal.claims import digest, tabled
from lowland.papers.andriushchenko2022.diagonal.settings import RUNS, SWITCHING, gd_like
from lowland.papers.andriushchenko2022.diagonal.task import DiagonalRuns, ordered_sum, sparse_regression
from lowland.training import Outcome

CPU = torch.device("cpu")
# Printed in the authors' notebook, for γ = 5/d and α = 0.1.
PUBLISHED = {
    "a-gd": 0.015056044189449159,
    "a-n-sam-0.01": 0.015143589149560101,
    "a-n-sam-0.03": 0.01532189739609112,
    "a-n-sam-0.1": 0.01598195225147282,
    "a-n-sam-0.3": 0.018241642036376265,
    "a-n-sam-1": 0.03606494489010675,
}


@pytest.fixture(scope="module")
def experiment():
    return find("andriushchenko2022/diagonal")


@pytest.fixture(scope="module")
def arms(experiment):
    return experiment.configure("paper", {})


def textbook(run, steps):
    """One network, one example after the other."""
    data = sparse_regression(run.seed)
    x, y = data.x.numpy(), data.y.numpy()
    u, v = np.full(30, run.alpha), np.zeros(30)
    for step in range(steps):
        rho = run.rho if step < run.phase_steps else run.then_rho
        of_u, of_v = np.zeros(30), np.zeros(30)
        ascent = x.T @ (x @ (u * v) - y) / 20
        for k in range(20):
            if run.m == 1:
                residual = x[k] @ (u * v) - y[k]
                p, q = u + 2 * rho * residual * x[k] * v, v + 2 * rho * residual * x[k] * u
            else:
                p, q = u + rho * ascent * v, v + rho * ascent * u
            residual = x[k] @ (p * q) - y[k]
            of_u, of_v = of_u + residual * x[k] * q / 20, of_v + residual * x[k] * p / 20
        u, v = u - run.lr * of_u, v - run.lr * of_v
    return u, v, data


CHOSEN = ("a-gd", "a-n-sam-1", "b-1-sam-0.1", "c-1-sam-0.3", "d-n-sam-0.9", "switch-gd-to-1-sam", "switch-1-sam-to-gd")


def test_every_algorithm_is_its_textbook_loop(arms):
    chosen = {name: replace(arms[name], phase_steps=40, seed=k % 3) for k, name in enumerate(CHOSEN)}
    chosen["switch-gd-to-1-sam"] = replace(chosen["switch-gd-to-1-sam"], then_rho=0.2)  # 10 is for later
    program = DiagonalRuns(chosen, CPU)
    program.train(25)
    first = program.measure()["a-gd"]
    u, v, data = textbook(chosen["a-gd"], 25)
    assert first["train_loss"] == pytest.approx(data.losses(torch.tensor(u[None]), torch.tensor(v[None]))[0].item())
    program.train(30)
    measured = program.measure()
    for k, (name, run) in enumerate(chosen.items()):
        u, v, data = textbook(run, min(run.steps, 55))
        np.testing.assert_allclose(program.u[:, k], u, rtol=1e-10)
        np.testing.assert_allclose(program.v[:, k], v, rtol=1e-10, atol=1e-13)
        if run.steps < 55:
            assert measured[name] is None
            continue
        test = ((data.test_x.numpy() @ (u * v) - data.test_y.numpy()) ** 2).sum() / 2000
        train = ((data.x.numpy() @ (u * v) - data.y.numpy()) ** 2).sum() / 40
        assert measured[name]["test_loss"] == pytest.approx(test, rel=1e-10)
        assert measured[name]["train_loss"] == pytest.approx(train, rel=1e-10)


def test_the_published_test_losses(arms):
    program = DiagonalRuns({name: arms[name] for name in PUBLISHED}, CPU)
    program.train(10_001)
    measured = {name: record["test_loss"] for name, record in program.measure().items()}
    assert measured == pytest.approx(PUBLISHED, rel=1e-12)


def test_the_data_are_the_papers():
    data = sparse_regression(0)
    random = np.random.RandomState(0)
    for part, count in ((data.x, 20), (data.test_x, 1000)):
        drawn = random.multivariate_normal(np.zeros(30), np.eye(30), count)
        np.testing.assert_allclose(np.abs(drawn), part.abs())  # the signs are those of some library's SVD
    theta = np.linalg.lstsq(data.test_x.numpy(), data.test_y.numpy(), rcond=None)[0]
    assert np.linalg.norm(theta) == pytest.approx(1)
    assert (theta[:3] > 0.01).all()
    assert np.abs(theta[3:]).max() < 1e-12
    np.testing.assert_allclose(data.x @ torch.from_numpy(theta), data.y)


def test_the_targets_do_not_depend_on_the_library_for_linear_algebra():
    data = sparse_regression(0)
    draws = np.random.RandomState(0)
    draws.randn(20 * 30 + 1000 * 30)
    theta = np.abs(draws.randn(30)[:3])
    a, b, c = theta / math.sqrt(theta[0] ** 2 + theta[1] ** 2 + theta[2] ** 2)
    for x, y in ((data.x, data.y), (data.test_x, data.test_y)):
        for (p, q, r, *_), target in zip(x.tolist(), y.tolist(), strict=True):
            assert (p * a + q * b) + r * c == target  # to the last bit


def test_the_papers_runs(arms):
    assert len(arms) == 6 + 5 + 6 + 15 + 4 + 9
    assert {group: {round(30 * arms[name].lr) for name in arms if name[0] == group} for group in "abcdsf"} == {
        "a": {5}, "b": {5}, "c": {10}, "d": {10, 15}, "s": {1}, "f": {5}
    }  # fmt: skip
    assert [arms[name].rho for name in arms if name.startswith("c-1-sam")] == [0.03, 0.1, 0.15, 0.2, 0.3]
    assert {arms[name].alpha for name in arms if name[0] == "b"} == {0.02}
    late = arms["switch-gd-to-1-sam"]
    assert [late.radius(step) for step in (0, 10_000, 10_001, 20_001)] == [0, 0, 10, 10]
    assert (late.steps, arms["a-gd"].steps, arms["figure-6-gd"].steps) == (20_002, 10_001, 1_000_000)
    assert arms["figure-6-1-sam-0.3"].radius(500_000) == 0.3
    assert [gd_like("d", method) for method in ("1-sam", "n-sam")] == ["d-gd", "c-gd"]


def test_no_run_sees_another(arms):
    """Not in one bit, though one of them diverges."""
    names = ["d-1-sam-0.1", "d-1-sam-0.9", "a-gd", "switch-gd-to-1-sam"]
    together = DiagonalRuns({name: arms[name] for name in names}, CPU)
    together.train(60)
    measured = together.measure()
    assert isinstance(measured["d-1-sam-0.9"], FloatingPointError)
    for name in set(names) - {"d-1-sam-0.9"}:
        alone = DiagonalRuns({name: arms[name]}, CPU)
        alone.train(60)
        assert torch.equal(alone.u[:, 0], together.u[:, names.index(name)])
        assert alone.measure()[name]["train_loss"] == pytest.approx(measured[name]["train_loss"], rel=1e-13)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 5))
def test_the_bits_do_not_depend_on_how_training_is_cut_or_resumed(cuts, resumed):
    arms = find("andriushchenko2022/diagonal").configure("smoke", {"switch-gd-to-1-sam.then_rho": "0.2"})
    arms = {name: arms[name] for name in ("b-gd", "c-1-sam-0.3", "switch-1-sam-to-gd", "switch-gd-to-1-sam")}
    straight, cut = DiagonalRuns(arms, CPU), DiagonalRuns(arms, CPU)
    straight.train(20)
    for k, steps in enumerate(cuts):
        steps = min(steps, 20 - cut.step)
        cut.train(steps)
        if k == resumed:
            state = cut.state_dict()
            cut = DiagonalRuns(arms, CPU)
            cut.load_state_dict(state)
    cut.train(20 - cut.step)
    assert torch.equal(straight.u, cut.u)
    assert torch.equal(straight.v, cut.v)
    last = cut.measure()
    assert last["switch-1-sam-to-gd"]["u"] == cut.u[:, 2].tolist()
    assert last["b-gd"] is None  # it ended ten steps ago


@settings(deadline=None)
@given(st.integers(1, 40), st.sampled_from([0, 1]), st.integers(0, 2**32 - 1))
def test_ordered_sum(count, dim, seed):
    terms = torch.from_numpy(np.random.RandomState(seed).randn(*((count, 3) if dim == 0 else (3, count))))
    expected = [math.fsum(column) for column in (terms.T if dim == 0 else terms).tolist()]
    assert ordered_sum(terms.clone(), dim).tolist() == pytest.approx(expected, rel=1e-13, abs=1e-14)


def test_m_is_one_or_all(arms):
    with pytest.raises(SettingError, match=r"a-gd\.m must be 1 \(1-SAM\) or 20 \(n-SAM\), not 3"):
        DiagonalRuns({"a-gd": replace(arms["a-gd"], m=3)}, CPU)


def test_gradient_descent_with_figure_6s_alpha_ends_at_its_test_loss(arms):
    run = arms["figure-6-gd"]
    data = sparse_regression(0)
    x, y = data.x.numpy(), data.y.numpy()
    u, v = np.full(30, run.alpha), np.zeros(30)
    for _ in range(150_000):  # by then the test loss stands still
        slope = x.T @ (x @ (u * v) - y) / 20
        u, v = u - run.lr * slope * v, v - run.lr * slope * u
    train, test = (loss.item() for loss in data.losses(torch.tensor(u[None]), torch.tensor(v[None])))
    assert train < 1e-12
    assert test == pytest.approx(1.2e-3, rel=0.02)


def test_long_runs_are_recorded_evenly_over_the_logarithm_of_the_steps(arms):
    run = arms["figure-6-gd"]
    kept = [step for step in range(0, run.steps + 1, run.check_every) if run.recorded(step)]
    assert kept[:65] == list(range(0, 65 * 50, 50))
    assert kept[-1] == 1_000_000
    for low in 2.0 ** np.arange(5, 14) * 50:
        assert len([step for step in kept if low <= step < 2 * low]) == 32
    assert all(arms["a-gd"].recorded(step) for step in range(0, 10_001, 50))
    program = DiagonalRuns({name: arms[name] for name in ("a-gd", "figure-6-gd")}, CPU)
    program.step = 3_250  # no multiple of 100
    measured = program.measure()
    assert measured["figure-6-gd"] is None
    assert measured["a-gd"]["test_loss"] > 0
    program.step = 1_000_000
    measured = program.measure()
    assert measured["a-gd"] is None  # it ended long before
    assert "u" in measured["figure-6-gd"]


@pytest.mark.slow
def test_in_a_run_the_long_ones_have_their_own_records(lowland, tmp_path):
    out = lowland("run", "andriushchenko2022/diagonal", "--scale", "smoke", "--set", "long_steps=700", "--out", "run")
    assert out.code == 0, out.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = {arm: [line["step"] for line in lines if line["arm"] == arm] for arm in ("figure-6-gd", "a-gd")}
    assert steps["figure-6-gd"] == [*range(0, 640, 10), 640, 660, 680, 700]
    assert steps["a-gd"] == [0, 10]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    last = summary["metrics"]["figure-6-1-sam-0.1"]
    assert summary["metrics"]["test_loss"]["figure-6"]["1-sam"][2] == last["test_loss"]
    assert last["step"] == 700
    assert (tmp_path / "run/figures/figure-6.png").exists()


def made_up(arms, losses, diverged=(), train_loss=1e-13):
    """Every run ends with the loss given for it, or with 1."""
    return {
        name: Outcome(run, [{"step": 0, "test_loss": losses.get(name, 1.0), "train_loss": train_loss}],
                  diverged_at=50 if name in diverged else None)
        for name, run in arms.items()
    }  # fmt: skip


def verdicts(experiment, arms, losses=None, diverged=()):
    made = made_up(arms, losses or {}, diverged)
    return {claim.id: claim.judge(made) for claim in experiment.claims}


def test_the_line_has_a_linear_axis(experiment, arms):
    made = made_up(arms, {})
    ends = {"u": [0.1] * 30, "v": [0.2] * 30}
    for name in ("switch-gd", "switch-gd-to-1-sam"):
        made[name] = replace(made[name], records=[{**made[name].records[0], **ends}])
    (line,) = next(plot for plot in experiment.figures if plot.name == "line").panels(made)
    assert (line.logx, line.logy) == (False, False)


def test_figure_6_shows_the_best_radius_of_each_method_and_where_the_papers_curves_end(experiment, arms):
    made = made_up(arms, {"figure-6-1-sam-0.03": 1e-4, "figure-6-n-sam-0.1": 1e-3}, diverged=["figure-6-1-sam-0.3"])
    made = {name: replace(arm, records=arm.records * 3) for name, arm in made.items()}
    test, train = next(plot for plot in experiment.figures if plot.name == "figure-6").panels(made)
    assert test.labels == [
        "gradient descent", "n-SAM, ρ = 0.1 (thin: 0.01, 0.03, 0.3)", "1-SAM, ρ = 0.03 (thin: 0.01, 0.1, 0.3)"
    ]  # fmt: skip
    assert len(test.lines) == 9
    assert (test.logx, test.logy) == (True, True)
    assert [level.value for level in test.levels] == [1.2e-3, 1.5e-4]
    assert not train.levels


def test_figure_6s_claims_are_about_the_radii_that_fit_the_data(experiment, arms):
    losses = {"figure-6-gd": 1e-3, "figure-6-1-sam-0.03": 2.4e-4, "figure-6-1-sam-0.1": 1e-6}
    losses |= {f"figure-6-n-sam-{rho}": 9e-4 for rho in (0.01, 0.03, 0.1, 0.3)}
    made = made_up(arms, losses)
    made["figure-6-1-sam-0.1"].records[-1]["train_loss"] = 1e-4
    claims = {claim.id: claim for claim in experiment.claims}
    found = claims["1-sam-figure-6"].judge(made)
    assert (found.passed, found.measured) == (True, pytest.approx(0.24))
    assert claims["n-sam-figure-6"].judge(made).measured == pytest.approx(0.9)
    assert claims["1-sam-figure-6"].regime(made) == ""
    made["figure-6-gd"].records[-1]["train_loss"] = 3e-9
    assert "gradient descent's training loss is 3.0e-09" in claims["1-sam-figure-6"].regime(made)
    made["figure-6-1-sam-0.03"].records[-1]["test_loss"] = 2.6e-4
    assert claims["1-sam-figure-6"].judge(made).passed is False
    assert claims["1-sam-figure-6"].reference.value == pytest.approx(0.125)
    loose = made_up(arms, losses, train_loss=1e-9)
    assert claims["1-sam-figure-6"].judge(loose).passed is None


def test_claims(experiment, arms):
    nothing = verdicts(experiment, arms)
    assert [nothing[f"1-sam-{group}"].passed for group in "bcd"] == [False] * 3
    assert [nothing[f"n-sam-{group}"].passed for group in "ad"] == [True] * 2
    assert nothing["late-switch"].passed is None
    assert nothing["divergence"].passed is False
    found = {"b-1-sam-0.03": 0.099, "c-1-sam-0.2": 0.011, "d-1-sam-0.3": 1e-8, "d-n-sam-0.1": 0.11, "a-n-sam-1": 0.09}
    found |= {"switch-1-sam": 1e-4, "switch-gd-to-1-sam": 10**-3.6, "switch-1-sam-to-gd": 2e-4}
    got = verdicts(experiment, arms, found, diverged=["d-1-sam-0.9"])
    assert [got[f"1-sam-{group}"].passed for group in "bcd"] == [True, False, True]
    assert got["1-sam-b"].measured == pytest.approx(0.099)
    assert [got[f"n-sam-{group}"].passed for group in "ad"] == [False, True]
    assert got["late-switch"].measured == pytest.approx(0.9)
    assert (got["early-stop"].passed, got["early-stop"].measured) == (None, pytest.approx(2))
    assert (got["divergence"].passed, got["divergence"].measured) == (True, 1)
    assert verdicts(experiment, arms, found | {"switch-gd-to-1-sam": 1e-3})["late-switch"].passed is False
    lost = verdicts(experiment, arms, found, diverged=["c-gd", "switch-gd", "switch-1-sam"])
    for claim in ("1-sam-c", "n-sam-d", "late-switch", "early-stop"):
        assert lost[claim].passed is None, claim
        assert "diverged" in lost[claim].reason


def test_digest_has_every_run_in_its_place_and_hides_no_divergence(arms):
    found = digest(made_up(arms, {"a-n-sam-0.1": 0.5}, diverged=["d-1-sam-0.9"]))
    assert found["test_loss"]["a"] == {"gd": 1.0, "n-sam": [1.0, 1.0, 0.5, 1.0, 1.0]}
    assert found["test_loss"]["d"]["1-sam"][-1] is None
    assert found["status"]["d"]["1-sam"] == ["done"] * 6 + ["diverged at step 50"]
    assert found["rho"] == tabled(lambda name: max(arms[name].rho, arms[name].then_rho))
    assert found["rho"]["a"] == {"gd": 0.0, "n-sam": [0.01, 0.03, 0.1, 0.3, 1.0]}
    assert list(found["test_loss"]) == [*RUNS, "switch", "figure-6"]
    assert found["rho"]["figure-6"] == {"gd": 0.0, "n-sam": [0.01, 0.03, 0.1, 0.3], "1-sam": [0.01, 0.03, 0.1, 0.3]}
    assert list(found["test_loss"]["switch"]) == list(SWITCHING)
    assert found["line"] is None


def test_the_line_goes_through_both_solutions(experiment):
    smoke = experiment.configure("smoke", {})
    program = DiagonalRuns(smoke, CPU)
    program.train(10)
    program.train(10)
    measured = program.measure()
    arms = {
        name: Outcome(one, [{"step": 20, **measured[name]}] if isinstance(measured[name], dict) else [])
        for name, one in smoke.items()
    }
    assert digest(arms)["line"] is None  # ρ = 10 is too large so early: there is no second solution
    arms["switch-gd-to-1-sam"] = arms["switch-1-sam"]
    line = digest(arms)["line"]
    assert (line["t"][0], line["t"][-1], len(line["t"])) == (-1, 2, 61)
    for t, name in ((0.0, "switch-gd"), (1.0, "switch-1-sam")):
        at = min(range(61), key=lambda k: abs(line["t"][k] - t))
        for column in ("train_loss", "test_loss"):
            assert line[column][at] == pytest.approx(measured[name][column], rel=1e-9)
