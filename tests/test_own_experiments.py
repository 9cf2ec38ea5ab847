"""An experiment from a file through the command line: run, resumed, swept, shown, evaluated; and what is refused."""

import json
import sys

import pytest

from lowland.data import Shuffled
from lowland.papers import COSTS_ARE_OF
from lowland.training import read_records

from .processes import end, torchrun
from .training.own_file import TEXT, write


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The file mine.py in the working directory."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return write(tmp_path)


def test_it_runs_and_the_same_command_again_says_so(lowland, mine, tmp_path):
    first = lowland("run", "mine.py")
    assert first.code == 0, first.err
    assert "run directory: runs/mine/laptop" in first.out
    for word in ("sam", "sgd", "validation_error", "test_error", "train_loss", "curves.png"):
        assert word in first.out
    assert "claim" not in first.out
    config = json.loads((tmp_path / "runs/mine/laptop/config.json").read_text())
    assert set(config["code"]) == {"mine.py"}
    assert config["arms"]["sgd"]["rho"] == 0
    again = lowland("run", "./mine.py:mine")
    assert "is finished" in again.out
    listed = lowland("show", "mine.py")
    for word in ("mine: Logistic regression on two clouds", "width", "--grid own", "0 0.1"):
        assert word in listed.out
    assert COSTS_ARE_OF not in listed.out
    measured = json.loads(lowland("evaluate", "mine.py", "runs/mine/laptop", "--arm", "sgd", "--json").out)
    assert measured["test_error"] == read_records(tmp_path / "runs/mine/laptop")["sgd"][-1]["test_error"]


def test_changed_code_is_refused_with_the_way_on(undrawn, lowland, refused, mine):
    assert lowland("run", "mine.py", "--out", "out").code == 0
    mine.write_text(TEXT.replace("Dropout(0.2)", "Dropout(0.1)"))
    says = (
        "out holds a run of other code (mine.py has changed since)",
        "choose another --out, or remove the directory",
    )
    refused("run", "mine.py", "--out", "out", says=says)
    mine.write_text(TEXT)
    assert "is finished" in lowland("run", "mine.py", "--out", "out").out


def test_what_begins_anew_with_other_code_says_so(undrawn, lowland, mine, interrupted):
    interrupted(Shuffled, "__call__", 1)
    assert lowland("run", "mine.py", "--out", "out").code == 130
    mine.write_text(TEXT.replace("Dropout(0.2)", "Dropout(0.1)"))
    says = "out begins anew: it was interrupted before its first checkpoint, and mine.py has changed since"
    begun = lowland("run", "mine.py", "--out", "out")
    assert (begun.code, says in begun.out) == (0, True), begun


def test_what_changes_no_record_is_judged_anew_and_not_trained(undrawn, lowland, mine, tmp_path):
    assert lowland("run", "mine.py", "--out", "out").code == 0
    before = (tmp_path / "out/metrics.jsonl").read_bytes()
    mine.write_text(
        TEXT.replace("import Experiment,", "import Claim, Experiment, Verdict,")
        .replace("MINE =", "def judge(arms):  # says so\n    return Verdict(1.0, True)\n\n\nMINE =")
        .replace(
            "build=build,", "build=build, title='Two clouds', claims=(Claim('one', 'It holds', 'ours', '< 9', judge),),"
        )
    )
    mended = lowland("run", "mine.py", "--out", "out")
    assert mended.code == 0, mended.err
    assert "claims and figures are made anew" in mended.out
    assert (tmp_path / "out/metrics.jsonl").read_bytes() == before
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [claim["id"] for claim in summary["claims"]] == ["one"]
    assert "is finished" in lowland("run", "mine.py", "--out", "out").out


def test_an_interrupted_run_goes_on_to_the_same_bits_and_not_with_other_code(
    undrawn, lowland, refused, mine, tmp_path, interrupted
):
    assert lowland("run", "mine.py", "--out", "whole").code == 0
    interrupted(Shuffled, "__call__", 10)
    assert lowland("run", "mine.py", "--out", "parts").code == 130
    mine.write_text(TEXT.replace("Dropout(0.2)", "Dropout(0.1)"))
    refused("run", "mine.py", "--out", "parts", says="mine.py has changed since")
    mine.write_text(TEXT)
    assert lowland("run", "mine.py", "--out", "parts").code == 0
    assert (tmp_path / "parts/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["process", "ray"])
def test_a_sweep_in_other_processes_gives_what_runs_give(undrawn, lowland, refused, mine, tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray")
    swept = lowland("sweep", "mine.py", "--out", "sweep", "--set", "epochs=2", "--engine", engine)
    assert swept.code == 0, swept.err
    assert "2 runs: 2 done" in swept.out
    assert lowland("run", "mine.py", "--out", "run", "--set", "epochs=2", "--set", "rho=0.1").code == 0
    runs = [json.loads(line) for line in (tmp_path / "sweep/metrics.jsonl").read_text().splitlines()]
    by_rho = {rho: [{**r, "arm": ""} for r in runs if r["arm"] == f"rho={rho}"] for rho in ("0", "0.1")}
    alone = {name: [{**r, "arm": ""} for r in one] for name, one in read_records(tmp_path / "run").items()}
    assert by_rho == {"0": alone["sgd"], "0.1": alone["sam"]}
    mine.write_text(TEXT.replace("Dropout(0.2)", "Dropout(0.1)"))
    refused("sweep", "mine.py", "--out", "sweep", "--set", "epochs=2", says="mine.py has changed since")


@pytest.mark.slow
def test_what_can_be_vectorized_is(undrawn, lowland, mine, tmp_path):
    mine.write_text(TEXT.replace("Dropout(0.2)", "ReLU()"))
    swept = lowland("sweep", "mine.py", "--out", "sweep", "--engine", "vectorized", "--set", "epochs=2")
    assert swept.code == 0, swept.err
    assert lowland("run", "mine.py", "--out", "run", "--set", "epochs=2", "--set", "rho=0.1").code == 0
    swept = read_last(tmp_path / "sweep")
    alone = read_last(tmp_path / "run")
    assert swept["rho=0.1"]["train_loss"] == pytest.approx(alone["sam"]["train_loss"], rel=1e-4)
    assert swept["rho=0"]["train_loss"] == pytest.approx(alone["sgd"]["train_loss"], rel=1e-4)


def read_last(path):
    return {arm: records[-1] for arm, records in read_records(path).items()}


@pytest.mark.slow
def test_torchrun(undrawn, lowland, mine, tmp_path):
    plain = TEXT.replace("Dropout(0.2)", "ReLU()")  # each process draws masks of its own
    mine.write_text(plain)
    ended = end(torchrun("-m", "lowland", "run", "mine.py", "--out", "two", cwd=tmp_path))
    assert ended.code == 0, ended
    assert lowland("run", "mine.py", "--out", "one").code == 0
    one, two = read_last(tmp_path / "one"), read_last(tmp_path / "two")
    assert two["sam"]["train_loss"] == pytest.approx(one["sam"]["train_loss"], rel=1e-4)
    assert json.loads((tmp_path / "two/config.json").read_text())["processes"] == 2


@pytest.mark.parametrize("command", ["run", "sweep", "show"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_this_name\n", "mine.py, line 1: ModuleNotFoundError"),
        ("x = 1\n", "mine.py has no experiment of its own"),
        (TEXT + "B = Experiment(name='mine', build=build, settings=MINE.settings)\nMINE.call('mine')\nC = B\n"
         "A = Experiment(name='mine', build=build, settings=MINE.settings)\n",
         "two experiments called mine"),
        (TEXT + "B = Experiment(name='b', build=build, settings=MINE.settings)\n", "say which, mine.py:mine/mine or"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_line(refused, mine, command, text, says):
    mine.write_text(text)
    refused(command, "mine.py", says=says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.py", ("there is no file nowhere.py", "lowland new nowhere.py")),
        ("mine.py:other", "mine.py has no experiment other"),
        ("mine", "Did you mean mine.py?"),
        ("mine.p", "there is no file mine.p. Did you mean mine.py?"),
    ],
)
def test_bad_names_are_refused_in_one_line(refused, mine, name, says):
    refused("run", name, says=says)


def test_data_that_does_not_fit_is_refused_in_one_line(refused, mine):
    mine.write_text(TEXT.replace("(x[:120], y[:120])", "x"))
    refused("run", "mine.py", says="train takes (x, y) as two tensors")
    mine.write_text(TEXT)
    refused("run", "mine.py", "--set", "examples=500", says="set examples to at most 108")
