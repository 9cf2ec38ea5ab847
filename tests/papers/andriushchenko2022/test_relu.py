"""The batched program against textbook loops with autograd, its compiled twin, and the claim."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.papers import find
from lowland.papers.andriushchenko2022 import relu_network
from lowland.papers.andriushchenko2022.relu import ReluRuns, digest
from lowland.papers.andriushchenko2022.relu_network import initial_weights, loss_and_gradient, points
from lowland.training import Outcome, repeats

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def experiment():
    return find("andriushchenko2022/relu")


def configured(**changes):
    """Four runs of 60 steps."""
    arms = find("andriushchenko2022/relu").configure("smoke", {"steps": "60", "seeds": "2"})
    return {name: replace(one, **changes) for name, one in arms.items()}


def loss_of(weights, x, y):
    w, b, a = weights
    return 0.5 * ((torch.relu(x[:, None] * w + b) @ a - y) ** 2).sum()


def textbook(run, steps):
    """One run with autograd: its weights, and after how many steps it stopped."""
    x, y = points()
    weights = initial_weights(run.seed).requires_grad_()
    for step in range(steps):
        loss = loss_of(weights, x, y)
        (gradient,) = torch.autograd.grad(loss, weights)
        if run.rho > 0:
            loss = loss_of(weights + run.rho * gradient / gradient.norm(), x, y)
            (gradient,) = torch.autograd.grad(loss, weights)
        falling = 1 - (step + 1) / run.steps if run.schedule == "linear" else 1
        weights = (weights - run.lr * falling * gradient).detach().requires_grad_()
        if loss <= run.stop_at:
            return weights.detach(), step + 1
    return weights.detach(), -1


def test_data_and_initial_weights():
    x, y = points()
    assert x[[0, 1, 11]].tolist() == pytest.approx([-1.305, -1.055, 1.445])
    assert y.tolist() == pytest.approx([k + 0.345 for k in (-2, 1.5, 0, 0, 2, 1, 0, -1, 0, 1, 2, -1)])
    many = torch.stack([initial_weights(seed) for seed in range(200)])
    assert set(many[:, 0].flatten().tolist()) == {-2.5, 2.5}
    assert many.std((0, 2)).tolist() == pytest.approx([2.5, 2.5, 4], rel=0.02)
    assert many.mean((0, 2)).abs().max() < 0.1


def test_the_gradient_is_autograds():
    x, y = points()
    weights = torch.stack([initial_weights(seed) for seed in range(3)])
    losses, gradients = loss_and_gradient(weights, x, y)
    for one, loss, gradient in zip(weights, losses, gradients, strict=True):
        one.requires_grad_()
        expected = loss_of(one, x, y)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, one)[0])


@pytest.mark.parametrize("stop_at", [1e-5, 40.0])
def test_every_run_is_its_textbook_loop(stop_at):
    arms = configured(stop_at=stop_at)
    program = ReluRuns(arms, CPU)
    program.train(13)
    program.train(47)
    expected = [textbook(run, 60) for run in arms.values()]
    for k, (weights, stopped) in enumerate(expected):
        torch.testing.assert_close(program.state.weights[k], weights, rtol=1e-9, atol=1e-11)
        assert program.state.stopped[k] == stopped
    assert any(stopped >= 0 for _, stopped in expected) == (stop_at == 40)
    made = {name: record["made"] for name, record in program.measure().items()}
    assert list(made.values()) == [60 if stopped < 0 else stopped for _, stopped in expected]


def test_runs_of_different_lengths_end_by_themselves():
    arms = configured()
    arms["gd-0"] = replace(arms["gd-0"], steps=7)
    program = ReluRuns(arms, CPU)
    program.train(60)
    k = list(arms).index("gd-0")
    torch.testing.assert_close(program.state.weights[k], textbook(arms["gd-0"], 7)[0], rtol=1e-9, atol=1e-11)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=5), st.integers(0, 4))
def test_the_bits_do_not_depend_on_how_training_is_cut_or_resumed(cuts, resumed):
    cut_like_that(configured(steps=20, stop_at=2000.0), cuts, resumed, 20)


def cut_like_that(arms, cuts, resumed, total):
    straight, cut = ReluRuns(arms, CPU), ReluRuns(arms, CPU)
    straight.train(total)
    for k, steps in enumerate(cuts):
        cut.train(min(steps, total - cut.step))
        if k == resumed:
            state = cut.state_dict()
            cut = ReluRuns(arms, CPU)
            cut.load_state_dict(state)
    cut.train(total - cut.step)
    assert torch.equal(straight.state.weights, cut.state.weights)
    assert torch.equal(straight.state.stopped, cut.state.stopped)
    assert straight.measure() == cut.measure()


def test_a_gradient_of_zero_climbs_nowhere_and_a_bad_run_alone_is_bad():
    program = ReluRuns(configured(), CPU)
    program.state.weights[0] = 0.0
    program.state.weights[0, 1] = -1.0  # every unit is dead
    program.state.weights[1] = float("nan")
    others = program.state.weights[2:].clone()
    program.train(8)
    assert program.state.weights[0].isfinite().all()
    assert (program.state.weights[0, 1] == -1).all()
    alone = ReluRuns(dict(list(configured().items())[2:]), CPU)
    alone.state.weights = others
    alone.train(8)
    assert torch.equal(program.state.weights[2:], alone.state.weights)
    measured = list(program.measure().values())
    assert [isinstance(found, FloatingPointError) for found in measured] == [False, True, *[False] * 6]


@pytest.mark.slow
def test_compiled_it_is_the_same(cpp_compiler):
    arms = configured(stop_at=40.0)
    compiled = ReluRuns({name: replace(run, compiled=True) for name, run in arms.items()}, CPU)
    eager = ReluRuns(arms, CPU)
    compiled.train(60)
    eager.train(60)
    torch.testing.assert_close(compiled.state.weights, eager.state.weights, rtol=1e-9, atol=1e-11)
    assert torch.equal(compiled.state.stopped, eager.state.stopped)
    assert compiled.program.run_block is not relu_network._block
    arms = {name: replace(run, compiled=True) for name, run in arms.items()}
    cut_like_that(arms, [3, 4, 5, 1, 1], 2, 60)


@pytest.mark.parametrize(("broken", "says"), [("missing", "can't compile"), ("wrong", "wrong program")])
def test_without_a_compiler_that_works_it_says_so_and_goes_on(monkeypatch, broken, says):
    def block(weights, stopped, *rest):
        if broken == "missing":
            raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no C++ compiler"), None)
        return weights * 1.001, stopped

    monkeypatch.setattr(relu_network, "_compiled_block", lambda: block)
    program = ReluRuns(configured(compiled=True), CPU)
    with pytest.warns(UserWarning, match=says):
        program.train(10)
    eager = ReluRuns(configured(), CPU)
    eager.train(10)
    assert torch.equal(program.state.weights, eager.state.weights)


def made_up(experiment, diverged=(), **kinks_of):
    """Arms whose kinks are given by kind, with _ for -; those of the others are 50."""
    seeds = len(next(iter(kinks_of.values())))
    arms = experiment.configure("paper", {"seeds": str(seeds)})
    kinks = dict.fromkeys(arms, 50)
    for kind, numbers in kinks_of.items():
        names = [name for name in arms if repeats(name, kind.replace("_", "-"))]
        kinks |= dict(zip(names, numbers, strict=True))
    record = {"step": 0, "loss": 0.5, "made": 7, "stopped": True}
    return {
        name: Outcome(run, [{**record, "kinks": kinks[name]}], 5 if name in diverged else None)
        for name, run in arms.items()
    }


@pytest.mark.parametrize(
    ("gd", "sam", "passed", "says"),
    [
        ([20, 22, 21, 25, 23], [12, 11, 14, 13, 15], True, ""),
        ([12, 11, 14, 13, 15], [20, 22, 21, 25, 23], False, ""),
        ([20, 22, 21, 25, 23], [22, 21, 24, 23, 25], None, "5 seeds can't tell"),
        ([20, 22, 21, 25, 23], [20, 22, 21, 25, 23], None, "5 seeds that give the same"),
        ([20, 20, 20, 20, 20], [5, 35, 5, 35, 19], None, "5 seeds can't tell"),
        ([20], [10], None, "one seed"),
    ],
)
def test_claim(experiment, gd, sam, passed, says):
    pairs = ({"gd": gd, "sam": sam}, {"gd_falling": gd, "sam": sam}, {"gd": gd, "sam_constant": sam})
    for claim, pair in zip(experiment.claims, pairs, strict=True):
        verdict = claim.judge(made_up(experiment, **pair))
        assert verdict.passed is passed
        assert verdict.measured == pytest.approx((sum(sam) - sum(gd)) / len(gd))
        assert says in verdict.reason


def test_a_claim_about_one_step_size_is_not_judged_on_the_other(experiment):
    arms = made_up(experiment, gd=[3, 4], sam=[1, 2])
    constant = {name: replace(arm, settings=replace(arm.settings, schedule="constant")) for name, arm in arms.items()}
    verdict = experiment.claims[1].judge(constant)
    assert (verdict.passed, verdict.reason) == (None, "a run has schedule=constant, and the claim is about linear")
    assert experiment.claims[2].judge(constant).measured is not None


def test_both_kinds_are_trained_with_both_step_sizes(experiment):
    arms = experiment.configure("paper", {"seeds": "1"})
    assert {(arm.rho, arm.schedule) for arm in arms.values()} == {
        (0.3, "linear"), (0.0, "constant"), (0.3, "constant"), (0.0, "linear")
    }  # fmt: skip


def test_each_step_size_has_panels_with_both_kinds(experiment):
    arms = made_up(experiment, gd=[3, 4], sam=[1, 2])
    ends = {"function_x": [0.0, 1.0], "function_y": [0.0, 2.0]}
    arms = {
        name: replace(arm, records=[*arm.records, {**arm.records[0], "step": 9, **ends}]) for name, arm in arms.items()
    }
    functions, over_steps = (plot.panels(arms) for plot in experiment.figures)
    schedules = ("falling step size", "constant step size")
    assert [panel.title for panel in functions] == [f"seed {seed}, {its}" for its in schedules for seed in (0, 1)]
    assert {tuple(panel.labels) for panel in functions} == {("gradient descent", "SAM", "data")}
    assert [(panel.title, panel.ylabel) for panel in over_steps] == [
        (its, what) for what in ("training loss", "kinks") for its in schedules
    ]
    falling, constant = ([list(line.y) for line in panel.lines] for panel in over_steps[2:])
    assert falling == [[50, 50], [1.5, 1.5]]
    assert constant == [[3.5, 3.5], [50, 50]]


def test_a_diverged_run_judges_nothing_and_is_null(experiment):
    arms = made_up(experiment, gd=[3, 4], sam=[1, 2], diverged=["sam-1"])
    verdict = experiment.claims[0].judge(arms)
    assert (verdict.passed, verdict.reason) == (None, "arm sam-1 diverged at step 5")
    kinks = {"gd": [3, 4], "sam": [1, None], "gd-falling": [50, 50], "sam-constant": [50, 50]}
    assert digest(arms)["kinks"] == kinks
    assert digest(arms)["seeds"] == [0, 1]


def test_arms_with_other_seeds_keep_their_places(experiment):
    arms = made_up(experiment, gd=[3, 4], sam=[1, 2])
    del arms["sam-0"]
    found = digest(arms)
    assert (sorted(found["seeds"]), found["kinks"]["sam"][found["seeds"].index(1)]) == ([0, 1], 2)
    assert found["kinks"]["sam"][found["seeds"].index(0)] is None
