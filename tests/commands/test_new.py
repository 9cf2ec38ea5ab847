"""`lowland new`: what it writes runs."""

import json
import sys

import pytest

from lowland.papers import experiments
from lowland.training import read_records, registry


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_what_it_writes_is_short_runs_and_can_be_swept(undrawn, lowland, here):
    written = lowland("new", "my_experiment.py")
    assert (written.code, written.err) == (0, "")
    assert "lowland run my_experiment.py" in written.out
    assert len((here / "my_experiment.py").read_text().splitlines()) < 60
    ran = lowland("run", "my_experiment.py", "--scale", "smoke")
    assert ran.code == 0, ran.err
    assert "lower-test-error" in ran.out
    assert "lower-test-error" in lowland("show", "my_experiment.py").out


@pytest.mark.slow
def test_its_claim_holds_in_its_regime(undrawn, lowland, here):
    lowland("new", "my_experiment.py")
    ran = lowland("run", "my_experiment.py", "--strict", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    (claim,) = summary["claims"]
    assert claim["passed"] is True
    assert claim["interval_95"][1] < 0
    assert {metrics["train_error"] for name, metrics in summary["metrics"].items() if name.startswith("sgd")} == {0}


@pytest.mark.slow
def test_its_grid_decides_the_claim_too(undrawn, lowland, here):
    lowland("new", "my_experiment.py")
    swept = lowland("sweep", "my_experiment.py")
    assert swept.code == 0, swept.err
    assert "15 runs: 15 done" in swept.out


def test_it_overwrites_nothing(refused, lowland, here):
    (here / "mine.py").write_text("mine")
    refused("new", "mine.py", says=("mine.py is there already", "choose another name"))
    refused("new", "mine.py", "--from", "long2024/digits", says="mine.py is there already")
    assert (here / "mine.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("mine",), "as my_experiment.py"),
        (("my experiment.py",), "as my_experiment.py"),
        (("nowhere/mine.py",), "there is no folder nowhere"),
        (("mine.py", "--from", "long2024/digit"), "Did you mean long2024/digits?"),
        (("mine.py", "--from", "other.py"), "--from takes the name of an experiment"),
    ],
)
def test_what_can_not_be_written_is_refused_in_one_line(refused, here, arguments, says):
    refused("new", *arguments, says=says)
    assert not list(here.glob("*.py"))


@pytest.mark.parametrize("name", list(experiments()))
def test_a_start_from_an_experiment_says_what_that_says(lowland, here, name):
    assert lowland("new", "mine.py", "--from", name).code == 0
    mine, original = registry.find("mine.py"), experiments()[name]
    assert mine.name == "mine"
    assert mine.configure("laptop", {}) == original.configure("laptop", {})
    assert mine.values("laptop") == original.values("laptop")
    for part in ("arms", "grid", "claims", "figures", "together"):
        assert getattr(mine, part) == getattr(original, part)
    assert (mine.prepare is None) == (original.prepare is None)


@pytest.mark.slow
def test_a_start_from_an_experiment_runs_as_that_does(undrawn, lowland, here):
    lowland("new", "mine.py", "--from", "long2024/digits")
    short = ("--scale", "smoke", "--set", "steps=4", "--set", "tol=0.1")
    assert lowland("run", "mine.py", *short, "--out", "mine").code == 0
    assert lowland("run", "long2024/digits", *short, "--out", "original").code == 0
    assert read_records(here / "mine") == read_records(here / "original")
