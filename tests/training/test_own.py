"""What an experiment of one's own has without saying it."""

import pickle
from dataclasses import replace

import pytest

from lowland.errors import SettingError
from lowland.experiments.running import shortened
from lowland.training import Experiment, Outcome, defaults, own, paper
from lowland.training.settings import Value


def build(settings):
    raise NotImplementedError


def experiment(**values):
    return Experiment(name="mine", settings=defaults(**values), build=build)


def test_steps_follow_from_epochs_and_checks_are_about_twenty():
    few = defaults(lr=0.1, rho=0, epochs=3, batch_size=30, examples=100)
    made = few(lr=0.1, rho=0.0, seed=0, seeds=1, epochs=3, batch_size=30, examples=100)
    assert (made.steps, made.check_every) == (12, 4)
    assert (replace(made, epochs=50).steps, replace(made, epochs=50).check_every) == (200, 12)
    by_steps = experiment(lr=0.1, rho=0.05, steps=1000).configure("paper", {})["sam"]
    assert (by_steps.steps, by_steps.check_every, by_steps.seed, by_steps.seeds) == (1000, 50, 0, 1)
    said = experiment(lr=0.1, rho=0.05, steps=1000, check_every=7, seed=3).configure("paper", {})["sam"]
    assert (said.check_every, said.seed) == (7, 3)


def test_values_have_their_types_and_known_ones_their_ranges():
    mine = experiment(lr=1, rho=0.05, steps=10, width=4, deep=False, kind="a")
    assert mine.configure("paper", {"lr": "2", "deep": "true"})["sgd"].lr == 2.0
    for changes, says in (
        ({"width": "x"}, "width .* must be a whole number"),
        ({"rho": "-1"}, "at least 0"),
        ({"wdth": "1"}, r"Did you mean width\?"),
    ):
        with pytest.raises(SettingError, match=says):
            mine.configure("paper", changes)
    assert mine.values("paper")["width"] == Value(4, "yours")
    assert mine.values("paper")["seeds"] == Value(1, "default")
    assert replace(mine, scales={"desk": {"width": 9}}).values("desk")["width"] == Value(9, "yours")
    from_a_paper = defaults(lr=paper(0.1, "table 1"), rho=0.05, steps=10).defaults["lr"]
    assert (from_a_paper.origin, from_a_paper.note) == ("paper", "table 1")


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ({"lr": 0.1, "steps": 3}, ValueError, "settings need rho"),
        ({"lr": 0.1, "rho": 0.1, "steps": 3, "momentun": 0.9}, ValueError, "did you mean momentum, not momentun"),
        ({"lr": 0.1, "rho": 0.1, "steps": 3, "sed": 1}, ValueError, "did you mean seed, not sed"),
        ({"lr": 0.1, "rho": 0.1}, ValueError, "settings need steps"),
        (
            {"lr": 0.1, "rho": 0.1, "epochs": 3},
            ValueError,
            "settings need batch_size, examples: with epochs the steps follow",
        ),
        ({"lr": 0.1, "rho": 0.1, "epochs": 3, "steps": 3}, ValueError, "steps or epochs, not both"),
        ({"lr": 0.1, "rho": 0.1, "steps": 3, "width": [1]}, TypeError, "width is a list"),
    ],
)
def test_what_settings_can_not_be(values, error, says):
    with pytest.raises(error, match=says):
        defaults(**values)


def test_the_same_values_make_the_same_class_here_and_elsewhere():
    made = experiment(lr=0.1, rho=0.05, steps=10, width=1).configure("paper", {"width": "5"})["sam"]
    assert pickle.loads(pickle.dumps(made)) == made
    assert defaults(lr=0.1, rho=0.05, steps=10, width=1) is defaults(lr=0.1, rho=0.05, steps=10, width=1)
    assert defaults(lr=0.1, rho=0.05, steps=10, width=1) is not defaults(lr=0.1, rho=0.05, steps=10, width=1.0)


def test_scales_and_grid():
    mine = experiment(lr=0.1, rho=0.07, epochs=30, batch_size=10, examples=500, seeds=3, seed=2)
    smoke = mine.configure("smoke", {})
    assert list(smoke) == ["sam", "sgd"]
    assert (smoke["sam"].steps, smoke["sam"].examples) == (10, 100)
    assert {scale: len(mine.configure(scale, {})) for scale in ("laptop", "desk", "paper")} == dict.fromkeys(
        ("laptop", "desk", "paper"), 6
    )
    assert mine.grid == {"lr": (0.03, 0.1, 0.3), "rho": (0.0, 0.02, 0.05, 0.07, 0.1, 0.2), "seed": (2, 3, 4)}
    assert experiment(lr=0.1, rho=0.05, steps=500).configure("smoke", {})["sam"].steps == 20
    assert mine.like("desk") == mine.like("laptop") == ["laptop", "desk", "paper"]
    assert mine.like("smoke") == ["smoke"]
    other = replace(mine, scales={"smoke": {"epochs": 2}, "paper": mine.scales["paper"]})
    assert other.configure("smoke", {})["sam-0"].epochs == 2


def test_what_an_experiment_must_say():
    for more, says in (
        ({}, "one of build, prepare and together"),
        ({"build": build}, "no values for its settings"),
        ({"build": build, "prepare": build}, "one of build, prepare and together"),
        ({"build": build, "name": "../up"}, "is called by words"),
        ({"build": build, "name": "a b"}, "is called by words"),
    ):
        with pytest.raises(ValueError, match=says):
            Experiment(**more)


def test_a_copy_keeps_what_was_filled_in_and_may_be_built_otherwise():
    mine = experiment(lr=0.1, rho=0.05, steps=10)
    assert replace(mine) == mine

    def other(settings):
        raise NotImplementedError

    assert replace(mine, build=other).prepare.build is other
    assert mine.prepare.build is build


def records(values):
    return [{"step": step, "train_loss": 1.0, "test_error": value, "epoch": step} for step, value in enumerate(values)]


def test_the_table_and_the_curves_take_repeated_arms_together():
    mine = experiment(lr=0.1, rho=0.05, steps=2, seeds=2)
    arms = mine.configure("paper", {})
    outcomes = {name: Outcome(settings, records([1, 0.5, 0.1 * k])) for k, (name, settings) in enumerate(arms.items())}
    rows = {row.name: row.entry()["measures"] for row in own.rows(outcomes)}
    assert list(rows) == ["sam", "sgd"]
    assert rows["sgd"]["test_error"]["by_seed"] == {0: pytest.approx(0.2), 1: pytest.approx(0.3)}
    assert "validation_error" not in rows["sam"]
    panels = {panel.title: panel for panel in own.CURVES.panels(outcomes)}
    assert list(panels) == ["train loss", "test error"]
    lines = panels["test error"].lines
    assert [(line.label, list(line.seeds)) for line in lines] == [("sam", [0, 1]), ("sgd", [0, 1])]
    assert (panels["test error"].ylabel, panels["test error"].against) == ("error", ["sgd"])
    assert lines[-1].y[-1] == pytest.approx(0.25)
    assert own.rows({"lr=0.1,seed=0": outcomes["sam-0"]}) == []


def test_what_an_arm_says_of_its_length_is_shorter_in_a_smoke_run():
    longer = {"sam": {}, "long": {"rho": 0.0, "epochs": 60}, "half": {"examples": 150}}
    made = replace(experiment(lr=0.1, rho=0.05, batch_size=10, epochs=30, examples=300), arms=longer)
    smoke = made.configure("smoke", {})
    assert [smoke[name].epochs for name in longer] == [1, 2, 1]
    assert [smoke[name].examples for name in longer] == [100, 100, 50]
    assert made.configure("laptop", {})["long"].epochs == 60
    assert made.configure("smoke", {"long.epochs": "3"})["long"].epochs == 3
    assert "long.epochs = 2 in place of 60, half.examples = 50 in place of 150" in shortened(made, "smoke")
